//! The dice of the driver: good inputs with a few things changed, the way damage and forgery change them.

/// A small generator of pseudo-random numbers (xorshift64*), so that every run does the same.
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, or 0.
    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize).checked_rem(limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }
}

const MAX_CHANGES: usize = 6;
const MAX_RANDOM_BYTES: usize = 600;
/// Numbers that are at an edge of something.
const EDGES: [u64; 16] =
    [0, 1, 2, 63, 64, 127, 128, 255, 256, 4095, 4096, 65535, 1 << 24, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// The next input, made of `seeds`.
pub fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.below(32) == 0 {
        let n = random.below(MAX_RANDOM_BYTES);
        return (0..n).map(|_| random.byte()).collect();
    }
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(MAX_CHANGES) {
        change(random, seeds, &mut bytes);
    }
    bytes
}

fn change(random: &mut Random, seeds: &[Vec<u8>], bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    let to = at + random.below((bytes.len() - at).min(64));
    match random.below(12) {
        0 | 1 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        2 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = random.byte()),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..to)),
        5 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        6 => {
            let n = random.below(16);
            let more: Vec<u8> = (0..n).map(|_| random.byte()).collect();
            bytes.splice(at..at, more);
        }
        7 => {
            let other = &seeds[random.below(seeds.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len())..]);
        }
        8 | 9 => binary_number(random, bytes, at),
        _ => decimal_number(random, bytes, at),
    }
}

/// Changes a length or an offset: an integer of 2, 4 or 8 bytes.
fn binary_number(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = [2, 4, 8][random.below(3)];
    let Some(field) = bytes.get_mut(at..at + width) else { return };
    let mut number = [0; 8];
    number[..width].copy_from_slice(field);
    let changed = other_number(random, u64::from_le_bytes(number));
    field.copy_from_slice(&changed.to_le_bytes()[..width]);
}

/// Changes the first decimal number from `at` on.
fn decimal_number(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let Some(first) = bytes[at..].iter().position(u8::is_ascii_digit) else { return };
    let first = at + first;
    let n_digits = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = std::str::from_utf8(&bytes[first..first + n_digits]).unwrap_or("");
    let changed = other_number(random, digits.parse().unwrap_or(0));
    bytes.splice(first..first + n_digits, changed.to_string().into_bytes());
}

fn other_number(random: &mut Random, number: u64) -> u64 {
    match random.below(5) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        2 => number.wrapping_mul(2),
        3 => number.wrapping_add(EDGES[random.below(EDGES.len())]),
        _ => EDGES[random.below(EDGES.len())],
    }
}
