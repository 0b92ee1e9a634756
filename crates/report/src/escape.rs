//! Untrusted strings, made safe for the two places in the page where they stand.

use serde::Serialize;

/// For text between tags and in quoted attributes.
pub(crate) fn text(raw: &str) -> String {
    let mut escaped = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            _ => escaped.push(c),
        }
    }
    escaped
}

/// JSON for a `<script type="application/json">`. Entities mean nothing there, but `</script` and `<!--` do: no `<`,
/// `>` or `&` is left, each stands as a JSON escape (they can only occur within strings).
pub(crate) fn json_in_script(value: &(impl Serialize + ?Sized)) -> String {
    // Serialising to memory fails only for map keys that are no strings, and there are none.
    let json = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    escape_json(&json)
}

fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' => escaped += "\\u003c",
            '>' => escaped += "\\u003e",
            '&' => escaped += "\\u0026",
            '\u{2028}' => escaped += "\\u2028",
            '\u{2029}' => escaped += "\\u2029",
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text() {
        assert_eq!(text(r#"<a b="c" d='e'>&amp;ü"#), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;amp;ü");
    }

    #[test]
    fn json_means_the_same() {
        for raw in ["</script><img onerror=alert(1)>", "<!-- <script>", "a\u{2028}b\u{2029}&amp;\"\\\n", "]]>"] {
            let escaped = escape_json(&serde_json::to_string(raw).unwrap());
            assert!(!escaped.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{escaped}");
            assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), raw);
        }
    }
}
