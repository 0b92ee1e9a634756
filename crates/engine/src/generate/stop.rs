//! Texts that end an answer: goes in text piece by piece, comes out what can be printed already. Next in the flow:
//! generator.rs.
//!
//! A stop string may begin in one piece and end in another, so whatever could still become one is held back. The match
//! that ends first counts, and of several that end together the longest: so the result does not depend on how the text
//! was cut.

use crate::{Error, Result};

/// Finds stop strings in a text that comes in pieces.
///
/// ```
/// use netweight_engine::StopMatcher;
///
/// let mut matcher = StopMatcher::new(&["\nUser:".to_owned()])?;
/// assert_eq!(matcher.push("Fine.\nUs"), "Fine.");
/// assert_eq!(matcher.push("ually, yes.\nUser: and"), "\nUsually, yes.");
/// assert_eq!(matcher.stopped_by(), Some(0));
/// # Ok::<(), netweight_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    n_given_bytes: usize, // the front of `held` was given out by the call before
    stopped_by: Option<usize>,
}

impl StopMatcher {
    /// A matcher for any number of stop strings, also none.
    ///
    /// # Errors
    /// `InvalidArgument` where one is empty: it would end every answer before it begins.
    pub fn new(stops: &[String]) -> Result<StopMatcher> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::invalid("a stop string is empty"));
        }
        Ok(StopMatcher { stops: stops.to_vec(), held: String::new(), n_given_bytes: 0, stopped_by: None })
    }

    /// Takes a piece; gives the text that is certain not to belong to a stop string. After a match nothing more.
    pub fn push(&mut self, piece: &str) -> &str {
        self.held.drain(..self.n_given_bytes);
        self.n_given_bytes = 0;
        if self.stopped_by.is_some() {
            return "";
        }
        self.held.push_str(piece);
        self.n_given_bytes = match self.first_match() {
            Some((stop_idx, start)) => {
                self.stopped_by = Some(stop_idx);
                self.held.truncate(start);
                start
            }
            None => self.held.len() - self.n_doubtful_bytes(),
        };
        &self.held[..self.n_given_bytes]
    }

    /// Gives what was held back, since no more text comes.
    pub fn finish(&mut self) -> &str {
        self.held.drain(..self.n_given_bytes);
        self.n_given_bytes = self.held.len();
        &self.held
    }

    /// Index of the stop string that was found.
    pub fn stopped_by(&self) -> Option<usize> {
        self.stopped_by
    }

    /// Stop string and where it begins, of the match that ends first and is longest.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(idx, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, idx))
        });
        found.min().map(|(_, start, idx)| (idx, start))
    }

    /// Bytes at the end that begin a stop string.
    fn n_doubtful_bytes(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            let is_begun = |n_bytes: &usize| self.held.as_bytes().ends_with(&stop.as_bytes()[..*n_bytes]);
            // A part that ends within a character cannot stand at the end of a text, so cuts are at characters.
            (1..=longest).rev().find(is_begun).unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[String], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut text: String = pieces.iter().map(|piece| matcher.push(piece).to_owned()).collect();
        text.push_str(matcher.finish());
        (text, matcher.stopped_by())
    }

    #[test]
    fn matches() {
        let check = |stops: &[&str], pieces: &[&str], text: &str, stopped_by: Option<usize>| {
            let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
            assert_eq!(run(&stops, pieces), (text.to_owned(), stopped_by), "{stops:?} {pieces:?}");
        };
        check(&[], &["a", "b"], "ab", None);
        check(&["X"], &["aXb"], "a", Some(0));
        check(&["XY"], &["aX", "Xb"], "aXXb", None);
        check(&["XXY"], &["aX", "X", "X", "Y", "b"], "aX", Some(0));
        check(&["XY"], &["aX"], "aX", None);
        check(&["long stop", "stop"], &["a long st", "op"], "a ", Some(0));
        check(&["abcd", "bc"], &["ab", "c", "d"], "a", Some(1));
        check(&["abcd", "bc"], &["abcd"], "a", Some(1));
        check(&["🐎"], &["a🐎b"], "a", Some(0));
        check(&["žluť"], &["ž", "l", "u", "ť"], "", Some(0));
        check(&["žx"], &["aźž", "ž"], "aźžž", None);
        check(&["\n\n"], &["a\n", "b\n", "\nc"], "a\nb", Some(0));
        assert!(StopMatcher::new(&["a".to_owned(), String::new()]).is_err());
    }

    proptest! {
        /// However the text is cut: no stop string is printed, nothing else is lost.
        #[test]
        fn cuts_do_not_matter(
            stops in prop::collection::vec("[abž]{1,4}", 0..4),
            pieces in prop::collection::vec("[abžc]{0,5}", 0..12),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let (text, stopped_by) = run(&stops, &pieces);
            prop_assert_eq!((&text, stopped_by), (&run(&stops, &[&whole]).0, run(&stops, &[&whole]).1));
            prop_assert!(stops.iter().all(|stop| !text.contains(stop.as_str())));
            match stopped_by {
                None => prop_assert_eq!(text, whole),
                Some(idx) => {
                    let with_stop = text + &stops[idx];
                    prop_assert!(whole.starts_with(&with_stop), "{}", with_stop);
                }
            }
        }

        /// No more is held back than could become a stop string.
        #[test]
        fn the_rest_is_printed_at_once(stops in prop::collection::vec("[ab]{1,4}", 1..4), text in "[abc]{0,12}") {
            let mut matcher = StopMatcher::new(&stops).unwrap();
            let mut printed = String::new();
            for (idx, c) in text.char_indices() {
                printed.push_str(matcher.push(c.encode_utf8(&mut [0; 4])));
                if matcher.stopped_by().is_some() {
                    break;
                }
                let held = &text[printed.len()..idx + c.len_utf8()];
                prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
            }
        }
    }
}
