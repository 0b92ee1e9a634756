//! How much work the encoder does.

/// How much work goes into a smaller file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Level {
    /// Exponent and the first mantissa bit, by the fast coder.
    #[default]
    Default,
    /// Exponent and three mantissa bits, by the thorough coder, in larger chunks.
    Max,
}

impl Level {
    /// Bytes of a tensor that one chunk stands for at this level.
    pub fn chunk_bytes(self) -> usize {
        match self {
            Level::Default => 1 << 20,
            Level::Max => 2 << 20,
        }
    }

    /// `"default"` or `"max"`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Default => "default",
            Level::Max => "max",
        }
    }
}
