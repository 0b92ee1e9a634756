//! The dtype table: one row for each element type that safetensors names.

/// How the bits of an element are arranged, as far as the codec cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No floating-point structure that pays: coded byte by byte.
    Bytes,
    /// One byte with its sign in the top bit.
    Float8,
    /// The 16 most significant bits hold a sign, an exponent of `exponent_bits` bits and the head of the
    /// mantissa. True of every IEEE-like float of 16 bits and more.
    Float16 {
        /// Width of the exponent field in bits.
        exponent_bits: u8,
    },
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// Name as it stands in a safetensors header.
    pub name: &'static str,
    /// Bits of one value of the tensor's shape; safetensors sizes follow from it.
    pub bits: u32,
    /// Bytes of the element that the codec works on (docs/format.md, section 4). A `C64` is two of them.
    pub element_bytes: usize,
    /// Arrangement of the element's bits.
    pub layout: Layout,
}

const fn row(name: &'static str, bits: u32, element_bytes: usize, layout: Layout) -> Row {
    Row { name, bits, element_bytes, layout }
}

const fn float(exponent_bits: u8) -> Layout {
    Layout::Float16 { exponent_bits }
}

/// Every dtype that safetensors names (safetensors 0.8, `Dtype`), commonest first.
pub const DTYPES: &[Row] = &[
    row("BF16", 16, 2, float(8)),
    row("F16", 16, 2, float(5)),
    row("F32", 32, 4, float(8)),
    row("F64", 64, 8, float(11)),
    row("F8_E4M3", 8, 1, Layout::Float8),
    row("F8_E5M2", 8, 1, Layout::Float8),
    row("F8_E8M0", 8, 1, Layout::Bytes),
    row("F8_E4M3FNUZ", 8, 1, Layout::Float8),
    row("F8_E5M2FNUZ", 8, 1, Layout::Float8),
    row("F6_E2M3", 6, 1, Layout::Bytes),
    row("F6_E3M2", 6, 1, Layout::Bytes),
    row("F4", 4, 1, Layout::Bytes),
    row("I8", 8, 1, Layout::Bytes),
    row("U8", 8, 1, Layout::Bytes),
    row("BOOL", 8, 1, Layout::Bytes),
    row("I16", 16, 2, Layout::Bytes),
    row("U16", 16, 2, Layout::Bytes),
    row("I32", 32, 4, Layout::Bytes),
    row("U32", 32, 4, Layout::Bytes),
    row("I64", 64, 8, Layout::Bytes),
    row("U64", 64, 8, Layout::Bytes),
    row("C64", 64, 4, float(8)),
];

static UNKNOWN: Row = row("unknown", 0, 1, Layout::Bytes);

/// An element type: a row of [`DTYPES`], or the row for names that are not in it.
#[derive(Clone, Copy, Debug)]
pub struct Dtype(&'static Row);

impl PartialEq for Dtype {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}
impl Eq for Dtype {}

impl Dtype {
    /// Plain bytes: what whole files and unknown dtypes are coded as.
    pub const BYTES: Dtype = Dtype(&UNKNOWN);

    /// The row of that name; a name outside the table gives [`Dtype::BYTES`].
    pub fn from_name(name: &str) -> Dtype {
        DTYPES.iter().find(|row| row.name == name).map_or(Dtype::BYTES, Dtype)
    }

    /// Name in a safetensors header; `"unknown"` for [`Dtype::BYTES`].
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Bits of one value, or `None` where the dtype is unknown.
    pub fn bits(self) -> Option<u32> {
        (self.0.bits != 0).then_some(self.0.bits)
    }

    /// Bytes of the element that the codec works on.
    pub fn element_bytes(self) -> usize {
        self.0.element_bytes
    }

    /// Arrangement of the element's bits.
    pub fn layout(self) -> Layout {
        self.0.layout
    }
}

/// Bytes of a tensor of that shape: product of the dimensions times the dtype's bits, which must fill whole
/// bytes. `None` where that overflows `u64`, leaves a part of a byte, or the dtype is unknown.
pub fn n_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let n_values = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
    let n_bits = n_values.checked_mul(u64::from(dtype.bits()?))?;
    n_bits.is_multiple_of(8).then_some(n_bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |name: &str, shape: &[u64], expected: Option<u64>| {
            assert_eq!(n_bytes(Dtype::from_name(name), shape), expected, "{name} {shape:?}");
        };
        check("BF16", &[], Some(2));
        check("BF16", &[3, 5], Some(30));
        check("F64", &[0, 5], Some(0));
        check("F4", &[3], None);
        check("F4", &[4], Some(2));
        check("F6_E2M3", &[4], Some(3));
        check("C64", &[2], Some(16));
        check("F32", &[u64::MAX, 2], None);
        check("F32", &[u64::MAX], None);
        check("NOBODY_KNOWS", &[1], None);
    }

    #[test]
    fn names_are_unique() {
        for (idx, row) in DTYPES.iter().enumerate() {
            assert!(DTYPES[..idx].iter().all(|earlier| earlier.name != row.name), "{}", row.name);
        }
    }
}
