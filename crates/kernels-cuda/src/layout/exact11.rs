//! exact11, defined: of each bf16 weight sign and mantissa as they are, and a code for its exponent: two bits that say
//! which of the tile's three commonest it is, or else three more that say which of the next eight. Any other exponent is
//! an escape, in a list of its slice's. Some 10.8 bits where weights are normal.
//!
//! A step of a tile is 80 vectors of four words: for each half step 32 of raw bytes, one a lane (both products of the
//! half), and then 16 of first codes (two words a lane, for four products). After a tile's steps come as many bytes: the
//! words of each step's second codes. A raw byte is the mantissa `<< 1`, and the sign of the other weight of its pair:
//! next to exponents, a rotation by one bit brings each sign to its place.
//!
//! What varies in length, a slice has in one piece: second codes, step after step, each of whole words, three bits a
//! code, by lane, product and weight; then escapes.

use super::{LANE_WEIGHTS, LANES, N_SLICES, STEP_COLS, STEP_PRODUCTS, Shape, TILE_ROWS, position};

/// Vectors of a step.
pub(crate) const STEP_VECTORS: usize = 80;
/// Exponents whose code is two bits.
const N_COMMON: usize = 3;
/// Those whose code is three more.
const N_RARE: usize = 8;
/// The first code of these.
const IS_RARE: u32 = 3;
const RARE_BITS: usize = 3;

/// Vectors of a tile.
pub(crate) fn tile_vectors(n_steps: usize) -> usize {
    n_steps * STEP_VECTORS + n_steps.div_ceil(16)
}

/// A matrix in exact11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exact11 {
    /// Rows and columns.
    pub shape: Shape,
    /// (n_tiles, 2) of eight bytes: three commonest exponents, base, next eight exponents less the base, four times 0.
    pub palettes: Vec<[u32; 2]>,
    /// (n_tiles, n_steps * 80 + a byte for each step)
    pub weights: Vec<[u32; 4]>,
    /// By tile and slice: second codes, and then, by product, weight of a lane, and lane: product, counted from the
    /// slice's first, `<< 16 | lane << 11 | weight << 8 | (exponent ^ commonest)`. Its first code is the commonest's.
    pub escapes: Vec<u32>,
    /// (n_tiles, slices) and one more: where each slice's begin.
    pub escape_starts: Vec<u32>,
}

fn exponent(weight: u16) -> u8 {
    (weight >> 7) as u8
}

/// The commonest exponents of a tile, the lower first among equals.
struct Palette {
    common: [u8; N_COMMON],
    base: u8,
    rare: [u8; N_RARE],
}

/// How an exponent is coded.
enum Code {
    Common(u32),
    Rare(u32),
    Escape,
}

impl Palette {
    /// All lie within 128 from the base on, because a permutation of bytes gives zero only for bytes below 128; and 255
    /// is not among them, because columns past the last take an exponent from here, and must be finite.
    fn choose(weights: impl Iterator<Item = u16>) -> Palette {
        let mut counts = [0u64; 256];
        weights.for_each(|weight| counts[usize::from(exponent(weight))] += 1);
        // The last of the greatest.
        let commonest = (0..255).rev().max_by_key(|&exponent| counts[exponent]).expect("exponents");
        let base = (commonest.max(124) - 124).min(127);
        let mut order: Vec<usize> = (base..base + 128).collect();
        order.sort_by_key(|&exponent| std::cmp::Reverse(counts[exponent])); // stable
        Palette {
            common: std::array::from_fn(|code| order[code] as u8),
            base: base as u8,
            rare: std::array::from_fn(|code| order[N_COMMON + code] as u8),
        }
    }

    fn code(&self, exponent: u8) -> Code {
        let place = |of: &[u8]| of.iter().position(|&entry| entry == exponent).map(|code| code as u32);
        place(&self.common).map(Code::Common).or_else(|| place(&self.rare).map(Code::Rare)).unwrap_or(Code::Escape)
    }

    fn words(&self) -> [[u32; 2]; 2] {
        let mut bytes = [0; 16];
        bytes[..N_COMMON].copy_from_slice(&self.common);
        bytes[N_COMMON] = self.base;
        let rare = self.rare.map(|exponent| exponent - self.base);
        bytes[N_COMMON + 1..][..N_RARE].copy_from_slice(&rare);
        [0, 8].map(|at| [at, at + 4].map(|at| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))))
    }
}

/// Appends and reads numbers of three bits.
#[derive(Default)]
struct RareCodes {
    words: Vec<u32>,
    n_bits: usize,
}

impl RareCodes {
    fn push(&mut self, code: u32) {
        for bit in 0..RARE_BITS {
            if self.n_bits.is_multiple_of(32) {
                self.words.push(0);
            }
            *self.words.last_mut().expect("a word") |= (code >> bit & 1) << (self.n_bits % 32);
            self.n_bits += 1;
        }
    }
}

fn rare_code(words: &[u32], idx: usize) -> u32 {
    let bit = |at: usize| words[at / 32] >> (at % 32) & 1;
    (0..RARE_BITS).map(|i| bit(idx * RARE_BITS + i) << i).sum()
}

/// Where the first code of weight `idx` stands: (word of a lane, shift).
fn common_place(product: usize, idx: usize) -> (usize, usize) {
    (product / 2, 4 * idx + 2 * (product % 2))
}

/// (word of a step, shift) of a raw byte, and of a first code.
fn places(product: usize, lane: usize, idx: usize) -> ((usize, usize), (usize, usize)) {
    let raw = 4 * (product / 2 * LANES + lane) + product % 2 * 2 + idx / 4;
    let (word, shift) = common_place(product, idx);
    ((raw, idx % 4 * 8), (8 * LANES + 2 * lane + word, shift))
}

/// Each (product, lane, idx) of a step in the order of second codes.
fn by_lane() -> impl Iterator<Item = [usize; 3]> {
    let n = STEP_PRODUCTS * LANE_WEIGHTS;
    (0..LANES * n).map(move |at| [at % n / LANE_WEIGHTS, at / n, at % LANE_WEIGHTS])
}

/// The same in the order of escapes.
fn by_product() -> impl Iterator<Item = [usize; 3]> {
    let n = LANES * LANE_WEIGHTS;
    (0..STEP_PRODUCTS * n).map(move |at| [at / n, at % LANES, at % n / LANES])
}

impl Exact11 {
    /// Encodes bf16 `weights` (rows, cols).
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn encode(shape: Shape, weights: &[u16]) -> Exact11 {
        assert_eq!(weights.len(), shape.rows * shape.cols);
        let mut encoded = Exact11 {
            shape,
            palettes: Vec::new(),
            weights: vec![[0; 4]; shape.n_tiles() * tile_vectors(shape.n_steps())],
            escapes: Vec::new(),
            escape_starts: vec![0],
        };
        for (tile_idx, tile) in weights.chunks(TILE_ROWS * shape.cols).enumerate() {
            let palette = Palette::choose(tile.iter().copied());
            encoded.palettes.extend(palette.words());
            for slice_idx in 0..N_SLICES {
                let steps = shape.slice(slice_idx);
                let mut listed = Vec::new();
                for step in steps.clone() {
                    let weights = |[product, lane, idx]: [usize; 3]| {
                        let (row, col) = position(product, lane, idx);
                        let col = step * STEP_COLS + col;
                        if col < shape.cols { tile.get(row * shape.cols + col).copied() } else { None }
                    };
                    let first_product = (step - steps.start) * STEP_PRODUCTS;
                    listed.extend(encoded.encode_step(tile_idx, step, first_product, weights, &palette));
                }
                encoded.escapes.extend(listed);
                encoded.escape_starts.push(encoded.escapes.len() as u32);
            }
        }
        encoded
    }

    /// Encodes a step of `weights`, second codes as well, and returns its escapes.
    fn encode_step(
        &mut self,
        tile_idx: usize,
        step: usize,
        first_product: usize,
        weights: impl Fn([usize; 3]) -> Option<u16>,
        palette: &Palette,
    ) -> Vec<u32> {
        let n_steps = self.shape.n_steps();
        let (vectors, lengths) = self.weights[tile_idx * tile_vectors(n_steps)..][..tile_vectors(n_steps)]
            .split_at_mut(n_steps * STEP_VECTORS);
        let words = vectors[step * STEP_VECTORS..][..STEP_VECTORS].as_flattened_mut();
        let mut rare_codes = RareCodes::default();
        for [product, lane, idx] in by_lane() {
            let Some(weight) = weights([product, lane, idx]) else { continue }; // padding is all zero bits
            let ((raw, shift), _) = places(product, lane, idx);
            words[raw] |= u32::from(weight & 127) << (shift + 1);
            let ((raw, shift), _) = places(product, lane, idx ^ 1);
            words[raw] |= u32::from(weight >> 15) << shift;
            let (_, (word, shift)) = places(product, lane, idx);
            match palette.code(exponent(weight)) {
                Code::Common(code) => words[word] |= code << shift,
                Code::Rare(code) => {
                    words[word] |= IS_RARE << shift;
                    rare_codes.push(code);
                }
                Code::Escape => {}
            }
        }
        lengths.as_flattened_mut()[step / 4] |= (rare_codes.words.len() as u32) << (step % 4 * 8);
        self.escapes.extend(rare_codes.words);
        let is_escape = |weight: &u16| matches!(palette.code(exponent(*weight)), Code::Escape);
        let entry = |[product, lane, idx]: [usize; 3]| {
            let weight = weights([product, lane, idx]).filter(is_escape)?;
            let place = (first_product + product) << 16 | lane << 11 | idx << 8;
            Some(place as u32 | u32::from(exponent(weight) ^ palette.common[0]))
        };
        by_product().filter_map(entry).collect()
    }

    /// The weights again (rows, cols).
    pub fn decode(&self) -> Vec<u16> {
        let Shape { rows, cols } = self.shape;
        let mut weights = vec![0; rows * cols];
        let n_steps = self.shape.n_steps();
        for (tile_idx, vectors) in self.weights.chunks(tile_vectors(n_steps).max(1)).enumerate() {
            let (steps, lengths) = vectors.split_at(n_steps * STEP_VECTORS);
            for slice_idx in 0..N_SLICES {
                let starts = &self.escape_starts[tile_idx * N_SLICES + slice_idx..];
                let mut rest = &self.escapes[starts[0] as usize..starts[1] as usize];
                let slice = self.shape.slice(slice_idx);
                let mut put = |step: usize, [product, lane, idx]: [usize; 3], change: &dyn Fn(u16) -> u16| {
                    let (row, col) = position(product, lane, idx);
                    let (row, col) = (tile_idx * TILE_ROWS + row, step * STEP_COLS + col);
                    if row < rows && col < cols {
                        weights[row * cols + col] = change(weights[row * cols + col]);
                    }
                };
                for step in slice.clone() {
                    let n_words = lengths.as_flattened()[step / 4] >> (step % 4 * 8) & 255;
                    let (rare_codes, behind) = rest.split_at(n_words as usize);
                    rest = behind;
                    let words = steps[step * STEP_VECTORS..][..STEP_VECTORS].as_flattened();
                    let mut n_rare = 0;
                    for place in by_lane() {
                        let weight = self.weight(tile_idx, words, place, rare_codes, &mut n_rare);
                        put(step, place, &|_| weight);
                    }
                }
                for &escape in rest {
                    let [product, lane, idx] = [escape >> 16, escape >> 11 & 31, escape >> 8 & 7].map(|of| of as usize);
                    let step = slice.start + product / STEP_PRODUCTS;
                    put(step, [product % STEP_PRODUCTS, lane, idx], &|weight| weight ^ (escape as u16 & 255) << 7);
                }
            }
        }
        weights
    }

    /// A weight, escapes apart; `n_rare` counts second codes.
    fn weight(
        &self,
        tile_idx: usize,
        words: &[u32],
        [product, lane, idx]: [usize; 3],
        rare_codes: &[u32],
        n_rare: &mut usize,
    ) -> u16 {
        let palette: [u8; 16] = bytemuck::cast([0, 1].map(|at| self.palettes[2 * tile_idx + at].map(u32::to_le)));
        let (raw, (word, shift)) = places(product, lane, idx);
        let (other, _) = places(product, lane, idx ^ 1);
        let [raw, other] = [raw, other].map(|(word, shift)| words[word] >> shift & 255);
        let code = words[word] >> shift & 3;
        let mut exponent = palette[code as usize];
        if code == IS_RARE {
            exponent += palette[4 + rare_code(rare_codes, *n_rare) as usize];
            *n_rare += 1;
        }
        ((other & 1) << 15) as u16 | u16::from(exponent) << 7 | (raw >> 1) as u16
    }

    /// Bytes on the GPU.
    pub fn len_bytes(&self) -> usize {
        16 * self.weights.len() + 4 * (self.escapes.len() + self.escape_starts.len()) + 8 * self.palettes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(rows: usize, cols: usize, weights: &[u16]) -> Exact11 {
        let encoded = Exact11::encode(Shape { rows, cols }, weights);
        assert!(encoded.decode() == weights, "{rows} x {cols}");
        encoded
    }

    #[test]
    fn all_bit_patterns() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        round_trip(16, 4096, &all);
        round_trip(4096, 16, &all);
        round_trip(1, 65536, &all);
    }

    #[test]
    fn odd_shapes() {
        for (rows, cols) in [(1, 1), (15, 63), (17, 65), (33, 200)] {
            let weights: Vec<u16> = (0..rows * cols).map(|idx| (idx as u32 * 40503) as u16).collect();
            round_trip(rows, cols, &weights);
        }
    }

    /// All weights at one exponent, at zero, at infinity, or in the second palette alone.
    #[test]
    fn few_exponents() {
        for exponents in
            [&[121][..], &[0], &[255], &[255, 0], &[1, 3, 250], &[0, 118, 119, 120, 121, 122, 123, 124, 125]]
        {
            let weights: Vec<u16> =
                (0..40 * 300).map(|idx| exponents[idx % exponents.len()] << 7 | (idx * 7 % 128) as u16).collect();
            round_trip(40, 300, &weights);
        }
    }

    /// Normal weights take less than 11 bits, whatever their scale.
    #[test]
    fn eleven_bits() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for scale in [0.02, 0.025, 0.03, 1.0 / 32.0, 0.04, 0.05, 1.3, 700.0] {
            let (rows, cols) = (32, 4096);
            let normal = |_| scale * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0);
            let weights: Vec<u16> =
                (0..rows * cols).map(normal).map(|weight| half::bf16::from_f64(weight).to_bits()).collect();
            let encoded = round_trip(rows, cols, &weights);
            let bits = 8.0 * encoded.len_bytes() as f64 / (rows * cols) as f64;
            println!("scale {scale:.5}: {bits:.3} bits a weight");
            assert!(bits < 11.0, "{bits} at {scale}");
        }
    }
}
