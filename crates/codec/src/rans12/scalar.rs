//! rans12 in scalar code: the definition that every other spelling is tested against.

use super::{DecodeTable, EncodeTable, LANES_PER_GROUP, LOW_STATE, Lanes, N_GROUPS, N_LANES};
use crate::Error;

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u8]) -> usize {
    let mut n_done = 0;
    for step in out.chunks_exact_mut(N_LANES) {
        if lanes.streams.iter().any(|stream| stream.len() < 2 * LANES_PER_GROUP) {
            break;
        }
        if decode_step(table, lanes, step).is_err() {
            break;
        }
        n_done += 1;
    }
    n_done
}

/// One step, every read checked. `out` has [`N_LANES`] symbols.
pub(crate) fn decode_step(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u8]) -> Result<(), Error> {
    for (lane, symbol) in out.iter_mut().enumerate() {
        let x = lanes.state[lane];
        let entry = table.entries[(x & 4095) as usize];
        *symbol = (entry >> 24) as u8;
        let mut x = (entry & 4095) * (x >> 12) + (entry >> 12 & 4095);
        if x < LOW_STATE {
            let stream = &mut lanes.streams[lane / LANES_PER_GROUP];
            let truncated = Error::Truncated { expected: 2, actual: stream.len() };
            let (word, rest) = stream.split_first_chunk().ok_or(truncated)?;
            *stream = rest;
            x = x << 16 | u32::from(u16::from_le_bytes(*word));
        }
        lanes.state[lane] = x;
    }
    Ok(())
}

/// [`super::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u32; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in symbols.chunks_exact(N_LANES).rev() {
        for lane in (0..N_LANES).rev() {
            let entry = table.freq_start[usize::from(step[lane])];
            let (freq, start) = (entry & 0xffff, entry >> 16);
            let mut x = state[lane];
            if x >> 20 >= freq {
                let group = lane / LANES_PER_GROUP;
                begins[group] -= 2;
                buffers[group][begins[group]..][..2].copy_from_slice(&(x as u16).to_le_bytes());
                x >>= 16;
            }
            state[lane] = ((x / freq) << 12) + x % freq + start;
        }
    }
    begins
}
