//! Streaming: the pieces are the text, and none of them has half a character.

mod toys;

use netweight_engine::Tokenizer;
use proptest::prelude::*;
use toys::{bookworm_tokenizer, byte_id, files, sentencepiece};

const PIECES: [&str; 8] = ["▁", "▁Hello", "▁world", "!", "中", "a", "▁▁", "�"];
const SPACE: u32 = 259;

fn llama_like() -> Tokenizer {
    Tokenizer::read(&files(&[("tokenizer.json", sentencepiece(&PIECES))])).unwrap()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap().to_owned()).collect();
    pieces.push(stream.finish().unwrap().to_owned());
    pieces
}

#[test]
fn spaces_and_bytes_of_sentencepiece() {
    let tokenizer = llama_like();
    let [hello, world, bang, han, a, two_spaces, replacement] = std::array::from_fn(|idx| SPACE + 1 + idx as u32);
    let bytes = |text: &str| -> Vec<u32> { text.bytes().map(byte_id).collect() };
    let check = |ids: &[u32], expected: &[&str]| assert_eq!(pieces(&tokenizer, ids), expected, "{ids:?}");
    check(&[], &[""]);
    check(&[hello, world, bang], &["Hello", " world", "!", ""]);
    check(&[1, hello, 2, world], &["", "Hello", "", " world", ""]);
    check(&[SPACE, hello, SPACE, a], &["", " Hello", " ", "a", ""]);
    check(&[two_spaces, two_spaces], &[" ", "  ", ""]);
    check(&bytes("🐎"), &["", "", "", "🐎", ""]);
    check(&bytes("中é"), &["", "", "中", "", "é", ""]);
    check(&[han, byte_id(0xe4), han], &["中", "", "\u{fffd}中", ""]);
    check(&[han, byte_id(0xe4)], &["中", "", "\u{fffd}"]);
    check(&[byte_id(0xe4), byte_id(0xb8), byte_id(0xad), byte_id(0xff)], &["", "", "中", "", "\u{fffd}"]);
    check(&[replacement, a], &["", "\u{fffd}a", ""]);
    check(&[replacement], &["", "\u{fffd}"]);
    check(&[byte_id(b'a'), byte_id(b' '), byte_id(b'b')], &["a", " ", "b", ""]);
}

#[test]
fn in_the_middle_of_a_text_the_first_space_stays() {
    let tokenizer = llama_like();
    let mut stream = tokenizer.stream().after(&[1, SPACE + 1]).unwrap();
    assert_eq!(stream.push(SPACE + 2).unwrap(), " world");
    assert_eq!(stream.finish().unwrap(), "");
    assert_eq!(stream.push(SPACE + 2).unwrap(), "world", "after the end a new text begins");
    let mut stream = tokenizer.stream().after(&[]).unwrap();
    assert_eq!(stream.push(SPACE + 2).unwrap(), "world");
}

#[test]
fn special_tokens_are_shown_on_request() {
    let tokenizer = bookworm_tokenizer();
    let ids = tokenizer.encode("<|user|>a").unwrap();
    let mut stream = tokenizer.stream().with_special();
    let text: String = ids.iter().map(|id| stream.push(*id).unwrap().to_owned()).collect();
    assert_eq!(text, "<|user|>a");
    assert!(tokenizer.stream().push(1 << 20).is_err());
}

#[test]
fn garbage_does_not_wait_forever() {
    for tokenizer in [bookworm_tokenizer(), llama_like()] {
        let garbage = if tokenizer.token(3).unwrap() == "<0x00>" {
            byte_id(0xff)
        } else {
            let is_half = |id: &u32| tokenizer.decode(&[*id]).unwrap() == "\u{fffd}";
            (0..4096).find(is_half).expect("a token that is half a character")
        };
        let mut stream = tokenizer.stream();
        let n_bytes: usize = (0..100).map(|_| stream.push(garbage).unwrap().len()).sum();
        assert!(n_bytes >= 80 * 3, "{n_bytes}");
    }
}

/// Whole pieces, decoders with bytes: the same text as in one go; nothing printed ends within a character.
fn check_pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Result<(), TestCaseError> {
    let pieces = pieces(tokenizer, ids);
    let whole = tokenizer.decode(ids).unwrap();
    prop_assert_eq!(pieces.concat(), whole);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any tokens of a byte-level vocabulary, many of them halves of characters.
    #[test]
    fn byte_level_pieces_are_the_text(
        ids in prop::collection::vec(prop_oneof![0u32..4096, 3u32..260], 0..60),
    ) {
        check_pieces(&bookworm_tokenizer(), &ids)?;
    }

    /// Any text, as tokens of a vocabulary with byte tokens.
    #[test]
    fn byte_fallback_pieces_are_the_text(text in "([ Hel!中a�é🐎]|Hello| world|\\PC){0,20}") {
        let tokenizer = llama_like();
        let ids = tokenizer.encode(&text).unwrap();
        check_pieces(&tokenizer, &ids)?;
        let held = pieces(&tokenizer, &ids).iter().any(|piece| piece.contains('\u{fffd}'));
        prop_assert_eq!(held, text.contains('\u{fffd}'));
    }

    /// Any tokens at all: what is no UTF-8 may print differently, but the rest is there.
    #[test]
    fn byte_fallback_garbage_keeps_the_rest(
        ids in prop::collection::vec(prop_oneof![0u32..267, 259u32..267], 0..60),
    ) {
        let tokenizer = llama_like();
        let text = pieces(&tokenizer, &ids).concat();
        let whole = tokenizer.decode(&ids).unwrap();
        let n_hans = |text: &str| text.matches('!').count();
        prop_assert!(n_hans(&text) >= n_hans(&whole));
        if !whole.contains('\u{fffd}') {
            prop_assert_eq!(text, whole);
        }
    }
}
