//! One safe function for each kernel: it checks lengths, and issues. What a kernel computes is in `twin`.

mod attention;
mod buffer;
mod enter;
mod heads;
mod norm;
mod pointwise;
mod routing;

pub use attention::{
    Attend, AttendScratch, Places, SPAN_POSITIONS, append, attend_steps, attend_tiles, cut_tiles, tile_rows,
};
pub use buffer::Buffer;
pub use enter::{Norms, Rotation, enter_heads};
pub use heads::{Heads, head_norm, rope};
pub use norm::{add_rms_norm, rms_norm};
pub use pointwise::{Activation, add, gate, gather, scale, scatter_add, softcap, zero};
pub use routing::{Routed, Routing, argmax, combine, route};
