//! Vocabularies: `tokenizer.ggml.*` of GGUF on one side, tokenizer.json and tokenizer_config.json on the other.
//! Next in the flow: import.rs.

mod from_gguf;
mod scores;
mod to_gguf;

pub(crate) use from_gguf::from_gguf;
pub(crate) use to_gguf::{Words, to_gguf};

/// What a token is (llama.h, `llama_token_type`).
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// How a text is cut into words before pairs are merged.
#[derive(Debug)]
struct Cutting {
    /// Names in `tokenizer.ggml.pre`; the first one is written.
    names: &'static [&'static str],
    /// Patterns, each of which cuts what the one before left.
    patterns: &'static [&'static str],
    /// Whether words that are tokens as they are need no merges.
    ignores_merges: bool,
    /// Whether texts are brought into Unicode's form NFC first.
    is_nfc: bool,
    /// Whether a text begins with the token for that, where the file does not say.
    adds_bos: bool,
}

/// The ways that are known. An empty list of patterns is GPT-2's own, which tokenizer.json has a word for.
static CUTTINGS: [Cutting; 4] = [
    Cutting { names: &["gpt-2", "phi-2"], patterns: &[], ignores_merges: false, is_nfc: false, adds_bos: false },
    Cutting {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignores_merges: true,
        is_nfc: false,
        adds_bos: true,
    },
    Cutting {
        names: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignores_merges: false,
        is_nfc: true,
        adds_bos: false,
    },
    Cutting {
        names: &["default"],
        patterns: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        ignores_merges: false,
        is_nfc: false,
        adds_bos: false,
    },
];

/// The name of the way that is taken where a file says none.
const DEFAULT_CUTTING: &str = "default";

/// Names of the ways, for messages.
fn known_cuttings() -> String {
    CUTTINGS.iter().map(|cutting| cutting.names[0]).collect::<Vec<_>>().join(", ")
}

/// The token of a byte that no other token covers.
fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}
