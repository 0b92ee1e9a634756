//! The table of GGML's element types: how many values a block has and how many bytes, how it is read, how written.
//! Next in the flow: blocks.rs, which reads quantised blocks.

use crate::blocks;
use crate::floats::{self, Tally};

/// Reads whole blocks.
pub(crate) type Decode = fn(&[u8], &mut [f32]);
/// Writes whole blocks, and counts what was lost.
pub(crate) type Encode = fn(&[f32], &mut [u8]) -> Tally;

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// Number in a GGUF file.
    id: u32,
    name: &'static str,
    block_values: u64,
    block_bytes: u64,
    decode: Option<Decode>,
    encode: Option<Encode>,
}

const fn known(id: u32, name: &'static str, block_values: u64, block_bytes: u64) -> Row {
    Row { id, name, block_values, block_bytes, decode: None, encode: None }
}

const fn read(id: u32, name: &'static str, block_values: u64, block_bytes: u64, decode: Decode) -> Row {
    Row { id, name, block_values, block_bytes, decode: Some(decode), encode: None }
}

const fn both(row: Row, encode: Encode) -> Row {
    Row {
        id: row.id,
        name: row.name,
        block_values: row.block_values,
        block_bytes: row.block_bytes,
        decode: row.decode,
        encode: Some(encode),
    }
}

/// Every type of GGML (ggml.h, `ggml_type`) that files hold. Those without a reader are here for their names.
static TYPES: [Row; 33] = [
    both(read(0, "F32", 1, 4, floats::from_f32), floats::to_f32),
    both(read(1, "F16", 1, 2, floats::from_f16), floats::to_f16),
    both(read(30, "BF16", 1, 2, floats::from_bf16), floats::to_bf16),
    both(read(8, "Q8_0", 32, 34, blocks::q8_0), floats::to_q8_0),
    read(2, "Q4_0", 32, 18, blocks::q4_0),
    read(12, "Q4_K", 256, 144, blocks::q4_k),
    read(13, "Q5_K", 256, 176, blocks::q5_k),
    read(14, "Q6_K", 256, 210, blocks::q6_k),
    known(3, "Q4_1", 32, 20),
    known(6, "Q5_0", 32, 22),
    known(7, "Q5_1", 32, 24),
    known(9, "Q8_1", 32, 40),
    known(10, "Q2_K", 256, 84),
    known(11, "Q3_K", 256, 110),
    known(15, "Q8_K", 256, 292),
    known(16, "IQ2_XXS", 256, 66),
    known(17, "IQ2_XS", 256, 74),
    known(18, "IQ3_XXS", 256, 98),
    known(19, "IQ1_S", 256, 50),
    known(20, "IQ4_NL", 32, 18),
    known(21, "IQ3_S", 256, 110),
    known(22, "IQ2_S", 256, 82),
    known(23, "IQ4_XS", 256, 136),
    known(24, "I8", 1, 1),
    known(25, "I16", 1, 2),
    known(26, "I32", 1, 4),
    known(27, "I64", 1, 8),
    known(28, "F64", 1, 8),
    known(29, "IQ1_M", 256, 56),
    known(34, "TQ1_0", 256, 54),
    known(35, "TQ2_0", 256, 66),
    known(39, "MXFP4", 32, 17),
    known(40, "NVFP4", 64, 36),
];

/// Types that files may be read in, for messages.
pub(crate) const READABLE: &str = "F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K and Q4_0";

/// An element type: a row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Type(&'static Row);

impl std::fmt::Debug for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        self.0.id == other.0.id
    }
}

impl Type {
    pub(crate) const F32: Type = Type(&TYPES[0]);
    pub(crate) const F16: Type = Type(&TYPES[1]);
    pub(crate) const BF16: Type = Type(&TYPES[2]);
    pub(crate) const Q8_0: Type = Type(&TYPES[3]);

    /// The type of that number in a GGUF file.
    pub(crate) fn from_id(id: u32) -> Option<Type> {
        TYPES.iter().find(|row| row.id == id).map(Type)
    }

    /// The type of floats that safetensors gives this name.
    pub(crate) fn from_dtype(name: &str) -> Option<Type> {
        [Type::BF16, Type::F16, Type::F32].into_iter().find(|ty| ty.0.name == name)
    }

    pub(crate) fn id(self) -> u32 {
        self.0.id
    }

    /// Name, which for floats is safetensors' too.
    pub(crate) fn name(self) -> &'static str {
        self.0.name
    }

    /// Values of a block; 1 for plain floats.
    pub(crate) fn block_values(self) -> u64 {
        self.0.block_values
    }

    pub(crate) fn is_float(self) -> bool {
        Type::from_dtype(self.0.name).is_some()
    }

    /// Bytes of that many values; `None` where they are no whole blocks, or overflow.
    pub(crate) fn n_bytes(self, n_values: u64) -> Option<u64> {
        let is_whole = n_values.is_multiple_of(self.0.block_values);
        is_whole.then(|| (n_values / self.0.block_values).checked_mul(self.0.block_bytes)).flatten()
    }

    pub(crate) fn decode(self) -> Option<Decode> {
        self.0.decode
    }

    pub(crate) fn encode(self) -> Option<Encode> {
        self.0.encode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_constants_are_right() {
        for (idx, row) in TYPES.iter().enumerate() {
            assert!(
                TYPES[..idx].iter().all(|earlier| earlier.id != row.id && earlier.name != row.name),
                "{}",
                row.name
            );
        }
        assert_eq!([Type::F32, Type::F16, Type::BF16, Type::Q8_0].map(Type::name), ["F32", "F16", "BF16", "Q8_0"]);
    }

    #[test]
    fn messages_name_what_can_be_read() {
        for row in &TYPES {
            let is_named = READABLE.split([',', ' ']).any(|name| name == row.name);
            assert_eq!(is_named, row.decode.is_some(), "{}", row.name);
        }
    }

    #[test]
    fn sizes() {
        let check =
            |ty: Type, n_values: u64, expected: Option<u64>| assert_eq!(ty.n_bytes(n_values), expected, "{ty:?}");
        check(Type::Q8_0, 64, Some(68));
        check(Type::Q8_0, 33, None);
        check(Type::F32, u64::MAX, None);
        check(Type::BF16, 0, Some(0));
    }
}
