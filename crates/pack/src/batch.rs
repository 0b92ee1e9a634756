//! Cuts a file into batches of pieces: consecutive ranges that are coded in parallel, one chunk each.

/// A stretch of the original file that is cut into chunks from its own start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Offset in the original file.
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) chunk_bytes: u64,
}

/// One chunk's worth of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) span_idx: usize,
    pub(crate) chunk_idx: usize,
    /// Offset in the original file.
    pub(crate) start: u64,
    pub(crate) len_bytes: usize,
}

const MAX_PIECES: usize = 4096;

/// Goes through the spans, which follow each other without gaps.
pub(crate) struct Batches<'a> {
    spans: &'a [Span],
    batch_bytes: usize,
    span_idx: usize,
    done_bytes: u64, // of the current span
}

impl<'a> Batches<'a> {
    pub(crate) fn new(spans: &'a [Span], batch_bytes: usize) -> Batches<'a> {
        Batches { spans, batch_bytes, span_idx: 0, done_bytes: 0 }
    }

    /// Goes on with that span.
    pub(crate) fn skip_to(&mut self, span_idx: usize) {
        (self.span_idx, self.done_bytes) = (span_idx, 0);
    }

    /// Replaces `pieces` by the next batch; false, and no pieces, at the end.
    pub(crate) fn next_into(&mut self, pieces: &mut Vec<Piece>) -> bool {
        pieces.clear();
        let mut n_bytes = 0;
        while let Some(span) = self.spans.get(self.span_idx) {
            let left_bytes = span.len_bytes - self.done_bytes;
            if left_bytes == 0 {
                self.span_idx += 1;
                self.done_bytes = 0;
                continue;
            }
            let piece_bytes = left_bytes.min(span.chunk_bytes);
            let len_bytes = usize::try_from(piece_bytes).unwrap_or(usize::MAX); // A chunk is at most 16 MiB.
            if !pieces.is_empty() && (n_bytes + len_bytes > self.batch_bytes || pieces.len() == MAX_PIECES) {
                break;
            }
            let chunk_idx = usize::try_from(self.done_bytes / span.chunk_bytes).unwrap_or(usize::MAX);
            let start = span.start + self.done_bytes;
            pieces.push(Piece { span_idx: self.span_idx, chunk_idx, start, len_bytes });
            n_bytes += len_bytes;
            self.done_bytes += piece_bytes;
        }
        !pieces.is_empty()
    }
}

/// Bytes of all the pieces.
pub(crate) fn len_bytes(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.len_bytes).sum()
}

/// Cuts `buffer`, which must be as long as the pieces together, into a slice for each.
pub(crate) fn split<'b>(pieces: &[Piece], mut buffer: &'b mut [u8]) -> Vec<&'b mut [u8]> {
    let mut slices = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (slice, rest) = buffer.split_at_mut(piece.len_bytes);
        slices.push(slice);
        buffer = rest;
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_the_spans() {
        let check = |lens: &[u64], chunk_bytes: u64, batch_bytes: usize, expected: &[&[usize]]| {
            let mut start = 0;
            let mut spans = Vec::new();
            for &len_bytes in lens {
                spans.push(Span { start, len_bytes, chunk_bytes });
                start += len_bytes;
            }
            let (mut batches, mut pieces, mut found) = (Batches::new(&spans, batch_bytes), Vec::new(), Vec::new());
            let mut position = 0;
            while batches.next_into(&mut pieces) {
                for piece in &pieces {
                    assert_eq!(piece.start, position);
                    position += piece.len_bytes as u64;
                }
                found.push(pieces.iter().map(|piece| piece.len_bytes).collect::<Vec<usize>>());
            }
            assert_eq!(found, expected, "{lens:?}");
            assert_eq!(position, start);
        };
        check(&[], 4, 8, &[]);
        check(&[0, 0], 4, 8, &[]);
        check(&[10], 4, 8, &[&[4, 4], &[2]]);
        check(&[3, 0, 5, 1], 4, 8, &[&[3, 4, 1], &[1]]);
        check(&[9], 16, 8, &[&[9]]);
    }
}
