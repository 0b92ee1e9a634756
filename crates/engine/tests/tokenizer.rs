//! Tokenizers: which ids a text has, which tokens end one, what is refused.

mod toys;

use netweight_engine::{Error, SideFiles, Tokenizer};
use serde_json::{Value, json};
use toys::{Files, bookworm, bookworm_tokenizer, files, sentencepiece};

const PIECES: [&str; 5] = ["▁", "a", "b", "c", "d"];
const A: u32 = 260;

fn read(entries: &[(&str, Value)]) -> Result<Tokenizer, Error> {
    Tokenizer::read(&files(entries))
}

fn with_config(config: Value) -> Result<Tokenizer, Error> {
    read(&[("tokenizer.json", sentencepiece(&PIECES)), ("tokenizer_config.json", config)])
}

#[test]
fn texts_survive_encoding_and_decoding() {
    let tokenizer = bookworm_tokenizer();
    for text in ["", "a", " leading", "trailing ", "two\n\nlines\t", "Žluťoučký kůň 🐎 读书 \u{200b}", "don't  stop"]
    {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(tokenizer.encode_bare(text).unwrap(), ids, "bookworm puts nothing around a text");
    }
    let ids = tokenizer.encode("<|user|>hi<|endoftext|>").unwrap();
    assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&0)));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "hi");
    assert_eq!(tokenizer.decode_all(&ids).unwrap(), "<|user|>hi<|endoftext|>");
}

#[test]
fn what_stands_around_a_text() {
    let check = |config: Value, expected: &[u32]| {
        let tokenizer = with_config(config.clone()).unwrap();
        assert_eq!(tokenizer.encode("a").unwrap(), expected, "{config}");
        assert_eq!(tokenizer.encode_bare("a").unwrap(), [A - 1, A], "{config}");
    };
    let space = A - 1;
    check(json!({}), &[1, space, A]);
    check(json!({"add_bos_token": null, "bos_token": "<s>"}), &[1, space, A]);
    check(json!({"add_bos_token": true, "bos_token": "<s>"}), &[1, space, A]);
    check(json!({"add_bos_token": true, "bos_token": {"content": "<s>", "lstrip": false}}), &[1, space, A]);
    check(json!({"add_bos_token": false, "bos_token": "<s>"}), &[space, A]);
    check(json!({"add_bos_token": true, "bos_token": null}), &[space, A]);
    check(json!({"add_eos_token": true, "eos_token": "</s>"}), &[space, A, 2]);
    check(
        json!({"add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>"}),
        &[1, space, A, 2],
    );
    check(json!({"add_bos_token": true, "bos_token": "b"}), &[A + 1, space, A]);
}

#[test]
fn tokens_that_end_a_text() {
    let check = |entries: &[(&str, Value)], expected: &[u32]| {
        let mut entries = entries.to_vec();
        entries.push(("tokenizer.json", sentencepiece(&PIECES)));
        assert_eq!(read(&entries).unwrap().eos_ids(), expected, "{entries:?}");
    };
    let config = |ids: Value| ("config.json", json!({"eos_token_id": ids}));
    let generation = |ids: Value| ("generation_config.json", json!({"eos_token_id": ids}));
    let tokenizer = |token: Value| ("tokenizer_config.json", json!({"eos_token": token}));
    check(&[], &[]);
    check(&[config(json!(7))], &[7]);
    check(&[config(json!([9, 7]))], &[7, 9]);
    check(&[config(json!(null))], &[]);
    check(&[config(json!(7)), generation(json!(8))], &[8]);
    check(&[config(json!(7)), generation(json!(null))], &[7]);
    check(&[config(json!(7)), generation(json!([8, 9, 8])), tokenizer(json!("</s>"))], &[2, 8, 9]);
    check(&[tokenizer(json!({"content": "</s>"}))], &[2]);
    check(&[tokenizer(json!("<|nowhere|>"))], &[]);
    check(&[("special_tokens_map.json", json!({"eos_token": "</s>"}))], &[2]);
    check(&[("special_tokens_map.json", json!({"eos_token": "a"})), tokenizer(json!("</s>"))], &[2]);
    check(&[("config.json", json!({"text_config": {"eos_token_id": 5}}))], &[5]);
    assert!(bookworm_tokenizer().is_eos(0));
    assert!(!bookworm_tokenizer().is_eos(1));
}

#[test]
fn tokens_beside_the_tokenizer_are_added() {
    let n_tokens = 3 + 256 + PIECES.len() as u32;
    let row = |content: &str, special: bool| json!({"content": content, "special": special});
    let config = |id: u32| {
        let mut rows = serde_json::Map::new();
        rows.insert("1".to_owned(), row("<s>", true));
        rows.insert(id.to_string(), row("<|new|>", true));
        json!({ "added_tokens_decoder": rows })
    };
    let tokenizer = with_config(config(n_tokens)).unwrap();
    assert_eq!(tokenizer.encode_bare("<|new|>").unwrap(), [n_tokens]);
    assert_eq!(tokenizer.special_id("<|new|>"), Some(n_tokens));
    assert_eq!(tokenizer.special_id("<s>"), Some(1));
    assert_eq!(tokenizer.special_id("a"), None);
    assert_eq!(tokenizer.decode(&[A, n_tokens, A]).unwrap(), "aa");
    let error = with_config(config(n_tokens + 1)).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("tokenizer_config.json: ") && error.contains("<|new|>"), "{error}");
    let tokenizer = with_config(json!({"eos_token": "d"})).unwrap();
    assert_eq!(tokenizer.decode(&[A, A + 3]).unwrap(), "a", "a token with a role is special");
}

#[test]
fn limits_of_training_do_not_cut_prompts() {
    let mut tokenizer = sentencepiece(&PIECES);
    tokenizer["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    let tokenizer = read(&[("tokenizer.json", tokenizer)]).unwrap();
    assert_eq!(tokenizer.encode("aaaa").unwrap().len(), 6);
}

#[test]
fn missing_tokenizers_are_explained() {
    let check = |name: &str, words: &[&str]| {
        let files: Files = [(name.to_owned(), b"{}".to_vec())].into();
        let error = Tokenizer::read(&files).map(|_| ()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    check("config.json", &["no tokenizer.json", "copy it"]);
    check("tokenizer.model", &["sentencepiece tokenizer.model", "not supported", "AutoTokenizer"]);
    check("vocab.json", &["vocab.json", "not supported"]);
    check("tekken.json", &["tekken.json"]);
}

#[test]
fn broken_files_are_named() {
    let check = |name: &str, content: &str| {
        let mut files = files(&[("tokenizer.json", sentencepiece(&PIECES))]);
        files.insert(name.to_owned(), content.as_bytes().to_vec());
        let error = Tokenizer::read(&files).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: corrupt: ")), "{error}");
    };
    check("tokenizer.json", "");
    check("tokenizer.json", "{\"model\": 5}");
    check("tokenizer_config.json", "{");
    check("tokenizer_config.json", "{\"add_bos_token\": \"yes\"}");
    check("tokenizer_config.json", "{\"add_bos_token\": true, \"bos_token\": \"<|nowhere|>\"}");
    check("special_tokens_map.json", "[");
    check("generation_config.json", "{\"eos_token_id\": \"two\"}");
    check("config.json", "nonsense");
}

/// Whatever stands in the file: an error, not a panic.
#[test]
fn broken_tokenizers_never_panic() {
    let whole = sentencepiece(&PIECES).to_string().into_bytes();
    for step in 0..200 {
        let at = step * whole.len() / 200;
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (step % 8);
        for bytes in [whole[..at].to_vec(), flipped] {
            let files: Files = [("tokenizer.json".to_owned(), bytes)].into();
            if let Ok(tokenizer) = Tokenizer::read(&files) {
                _ = tokenizer.encode("abc é").map(|ids| tokenizer.decode(&ids));
            }
        }
    }
}

#[test]
fn tokenizer_and_model_must_fit() {
    let n_base = 3 + 256 + PIECES.len();
    let added = json!({"added_tokens_decoder": {(n_base.to_string()): {"content": "<image>", "special": true}}});
    let fresh = || with_config(added.clone()).unwrap();
    assert!(fresh().check_fits(n_base + 100).is_ok(), "publishers pad");
    let error = fresh().check_fits(n_base - 1).unwrap_err().to_string();
    assert!(error.contains("do not belong together"), "{error}");
    let mut without_image = fresh();
    without_image.check_fits(n_base).unwrap();
    assert!(without_image.encode("a").is_ok());
    let error = without_image.encode("<image>").unwrap_err();
    assert!(
        matches!(error, Error::TokenOutOfRange { id, vocab_size } if id as usize == n_base && vocab_size == n_base)
    );
    assert!(without_image.decode(&[n_base as u32]).is_err());
    assert!(without_image.special_id("<image>").is_none());
    let mut tokenizer = read(&[
        ("tokenizer.json", sentencepiece(&PIECES)),
        ("generation_config.json", json!({"eos_token_id": [2, 5000]})),
    ])
    .unwrap();
    assert!(tokenizer.check_fits(n_base).unwrap_err().to_string().contains("5000"));
}

#[test]
fn folders_give_files() {
    let folder = bookworm();
    assert!(folder.as_path().side_file("tokenizer.json").unwrap().is_some());
    assert!(folder.as_path().side_file("nothing.json").unwrap().is_none());
    assert!(folder.as_path().side_file("..").unwrap().is_none());
}
