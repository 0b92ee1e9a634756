//! Texts for who brings none: public-domain prose in English. Next in the flow: calibrate.rs.

/// Parts of fifteen novels: to calibrate on.
pub const CALIBRATION: &str = include_str!("../texts/calibration.txt");
/// Parts of two others: to measure on.
pub const HELD_OUT: &str = include_str!("../texts/heldout.txt");
/// A play: text of another kind.
pub const OUT_OF_DOMAIN: &str = include_str!("../texts/ood.txt");
