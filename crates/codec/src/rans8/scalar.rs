//! rans8 in scalar code: the definition that every other spelling is tested against.

use super::{DecodeTable, ESCAPE, EncodeTable, LANES_PER_GROUP, LOW_STATE, Lanes, N_GROUPS, N_LANES};
use crate::Error;

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> usize {
    let mut n_done = 0;
    for step in out.chunks_exact_mut(N_LANES) {
        if lanes.streams.iter().any(|stream| stream.len() < LANES_PER_GROUP) {
            break;
        }
        if decode_step(table, lanes, step).is_err() {
            break;
        }
        n_done += 1;
    }
    n_done
}

/// One step, every read checked. `out` has [`N_LANES`] values.
pub(crate) fn decode_step(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> Result<(), Error> {
    for (lane, value) in out.iter_mut().enumerate() {
        let x = lanes.state[lane];
        let slot = x & 255;
        let s = usize::from(table.symbol[usize::from(slot)]);
        *value = if s == ESCAPE { lanes.next_escape() } else { table.base.wrapping_add(s as u16) };
        let mut x = table.freq[s] * (x >> 8) + (slot - table.start[s]);
        if x < LOW_STATE {
            let stream = &mut lanes.streams[lane / LANES_PER_GROUP];
            let (&byte, rest) = stream.split_first().ok_or(Error::Truncated { expected: 1, actual: 0 })?;
            *stream = rest;
            x = x << 8 | u16::from(byte);
        }
        lanes.state[lane] = x;
    }
    Ok(())
}

impl Lanes<'_> {
    fn next_escape(&mut self) -> u16 {
        let value = self.escapes.get(self.n_escapes_used).copied().unwrap_or(0);
        self.n_escapes_used += 1;
        value
    }
}

/// [`super::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in symbols.chunks_exact(N_LANES).rev() {
        for lane in (0..N_LANES).rev() {
            let s = usize::from(step[lane]);
            let freq = u32::from(table.freq[s]);
            let mut x = u32::from(state[lane]);
            if x >= freq << 8 {
                let group = lane / LANES_PER_GROUP;
                begins[group] -= 1;
                buffers[group][begins[group]] = x as u8;
                x >>= 8;
            }
            state[lane] = (((x / freq) << 8) + x % freq + u32::from(table.start[s])) as u16;
        }
    }
    begins
}
