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

/// Which of the matrices stream: as many from the last on as it takes for the rest and the slots to fit into `room` bytes.
/// `None` where even all of them are not enough.
pub fn choose_streamed(candidates: &[Candidate], room: u64) -> Option<Vec<bool>> {
    let mut streams = vec![false; candidates.len()];
    let mut resident: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    let (mut largest, mut rest) =
        (0, candidates.iter().enumerate().rev().filter(|(_, candidate)| candidate.may_stream));
    while resident + N_SLOTS as u64 * largest > room {
        let (idx, candidate) = rest.next()?;
        streams[idx] = true;
        resident -= candidate.bytes;
        largest = largest.max(candidate.bytes);
    }
    Some(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(bytes: &[u64]) -> Vec<Candidate> {
        bytes.iter().enumerate().map(|(idx, &bytes)| Candidate { bytes, may_stream: idx > 0 }).collect()
    }

    #[test]
    fn what_fits_stays() {
        let check = |bytes: &[u64], room: u64, expected: Option<&[usize]>| {
            let streams = choose_streamed(&candidates(bytes), room);
            let which = |streams: Vec<bool>| (0..streams.len()).filter(|&idx| streams[idx]).collect::<Vec<usize>>();
            assert_eq!(streams.map(which).as_deref(), expected, "{bytes:?} in {room}");
        };
        check(&[50; 4], 200, Some(&[]));
        // Streaming one takes six slots: it pays from the eighth on.
        check(&[10; 20], 199, Some(&[13, 14, 15, 16, 17, 18, 19]));
        check(&[10; 20], 70, Some(&(1..20).collect::<Vec<usize>>()));
        check(&[10; 20], 69, None);
        check(&[], 0, Some(&[]));
    }
}
