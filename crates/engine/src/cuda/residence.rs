//! Which weights stay in the GPU's memory, and which in the host's, from where they stream in. Goes in: how large each
//! matrix is, and how much room there is. Next in the flow: source.rs.

/// Matrices that are on their way, or in use, at once: q, k and v, and what comes next.
pub const N_SLOTS: usize = 6;

/// A matrix, in the order in which a forward pass uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Bytes in its layout.
    pub bytes: u64,
    /// Whether it may stream in. Embeddings, of which a row is read, may not; nor may weights that are not bf16.
    pub may_stream: bool,
}

/// Which of the matrices stream, so that the rest and the slots fit into `room` bytes: as few bytes as it takes. Those
/// of up to some size, from the last on; slots are as large as the largest.
///
/// # Errors
/// The least bytes that would do, where `room` has not as many.
pub fn choose_streamed(candidates: &[Candidate], room: u64) -> Result<Vec<bool>, u64> {
    let all: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    if all <= room {
        return Ok(vec![false; candidates.len()]);
    }
    let mut sizes: Vec<u64> = candidates.iter().filter(|one| one.may_stream).map(|one| one.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let (mut best, mut least): (Option<(u64, Vec<bool>)>, u64) = (None, all);
    for slot in sizes {
        let (mut streams, mut streamed) = (vec![false; candidates.len()], 0);
        for (idx, candidate) in candidates.iter().enumerate().rev() {
            if candidate.may_stream && candidate.bytes <= slot && all - streamed + N_SLOTS as u64 * slot > room {
                streams[idx] = true;
                streamed += candidate.bytes;
            }
        }
        let needed = all - streamed + N_SLOTS as u64 * slot;
        least = least.min(needed);
        if needed <= room && best.as_ref().is_none_or(|(bytes, _)| streamed < *bytes) {
            best = Some((streamed, streams));
        }
    }
    best.map(|(_, streams)| streams).ok_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(bytes: &[u64]) -> Vec<Candidate> {
        bytes.iter().enumerate().map(|(idx, &bytes)| Candidate { bytes, may_stream: idx > 0 }).collect()
    }

    #[test]
    fn what_fits_stays() {
        let check = |bytes: &[u64], room: u64, expected: Result<&[usize], u64>| {
            let streams = choose_streamed(&candidates(bytes), room);
            let which = |streams: Vec<bool>| (0..streams.len()).filter(|&idx| streams[idx]).collect::<Vec<usize>>();
            assert_eq!(streams.map(which), expected.map(<[usize]>::to_vec), "{bytes:?} in {room}");
        };
        check(&[50; 4], 200, Ok(&[]));
        // Streaming one takes six slots: it pays from the seventh on.
        check(&[10; 20], 199, Ok(&[13, 14, 15, 16, 17, 18, 19]));
        check(&[10; 20], 70, Ok(&(1..20).collect::<Vec<usize>>()));
        check(&[10; 20], 69, Err(70));
        // A large one would make slots large.
        check(&[[10; 20].as_slice(), &[100]].concat(), 299, Ok(&[13, 14, 15, 16, 17, 18, 19]));
        check(&[], 0, Ok(&[]));
        check(&[5], 4, Err(5));
    }
}
