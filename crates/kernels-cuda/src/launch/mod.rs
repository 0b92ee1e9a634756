//! One safe function for each kernel: it checks lengths, and issues. What a kernel computes is in `twin`.

mod attention;
mod buffer;
mod decode;
mod draw;
pub(crate) mod encode;
mod enter;
mod experts;
mod foreign;
mod heads;
mod likeliest;
mod linear;
mod measure;
mod norm;
mod pointwise;
mod prefill;
mod routing;

pub use attention::{
    Attend, AttendScratch, Places, SPAN_POSITIONS, append, attend_steps, attend_tiles, cut_tiles, tile_rows,
};
pub use buffer::Buffer;
pub use decode::{decode, embed};
pub use draw::draw;
pub use enter::{Norms, Rotation, enter_heads};
pub use experts::{ExpertTable, Sent};
pub use foreign::{decode_foreign, embed_foreign, foreign_len, linear_foreign};
pub use heads::{Heads, head_norm, rope};
pub use likeliest::likeliest;
pub use linear::{Epilogue, MAX_PARTS, Part, gated_linear, is_gate_and_up, linear};
pub use measure::{copy_memory, random_halves, read_memory};
pub use norm::rms_norm;
pub use pointwise::{Activation, add, gate, gather, scale, scatter_add, softcap, zero};
pub use prefill::Prefill;
pub use routing::{Routed, Routing, combine, route};
