//! Values as Python writes them: goes in a value, comes out what `str`, `repr` or `json.dumps` give for it. Templates
//! are written against Python, where true is `True` and a list prints with quotes. Next in the flow: functions.rs.

use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde_json::Value as Json;

/// `str(value)`: what `{{ value }}` prints.
pub fn str_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => {
            let mut out = String::new();
            write_repr(value, &mut out);
            out
        }
    }
}

fn write_repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() => out.push_str(&float(number)),
            _ => _ = write!(out, "{value}"),
        },
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => write_items(value, ('[', ']'), out, write_repr),
        ValueKind::Map => write_items(value, ('{', '}'), out, |key, out| {
            write_repr(key, out);
            out.push_str(": ");
            write_repr(&value.get_item(key).unwrap_or_default(), out);
        }),
        _ => _ = write!(out, "{value}"),
    }
}

fn write_items(value: &Value, (open, close): (char, char), out: &mut String, write: impl Fn(&Value, &mut String)) {
    out.push(open);
    for (idx, item) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if idx > 0 { ", " } else { "" });
        write(&item, out);
    }
    out.push(close);
}

/// `repr` of a string.
fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `repr` of a float: shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    let magnitude = number.abs();
    if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        format!("{number:?}")
    } else {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
        format!("{digits}e{sign}{exponent:0>2}")
    }
}

/// Options of `json.dumps`.
#[derive(Clone, Debug)]
pub struct Dumps {
    /// What each level is indented with; `None` writes one line.
    pub indent: Option<String>,
    /// Between items.
    pub item_separator: String,
    /// Between a key and its value.
    pub key_separator: String,
    /// Whether to escape everything beyond ASCII.
    pub ensure_ascii: bool,
    /// Whether keys are sorted.
    pub sort_keys: bool,
}

/// `json.dumps(value)`. HTML is not escaped.
pub fn dumps(value: &Json, options: &Dumps) -> String {
    let mut out = String::new();
    write_json(value, options, 0, &mut out);
    out
}

fn write_json(value: &Json, options: &Dumps, depth: usize, out: &mut String) {
    match value {
        Json::Number(number) => match number.as_f64() {
            Some(float_number) if number.is_f64() => out.push_str(&float(float_number)),
            _ => _ = write!(out, "{number}"),
        },
        Json::String(text) => write_json_string(text, options, out),
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (idx, item) in items.iter().enumerate() {
                separate(idx, options, depth + 1, out);
                write_json(item, options, depth + 1, out);
            }
            new_line(options, depth, out);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            let mut entries: Vec<(&String, &Json)> = map.iter().collect();
            if options.sort_keys {
                entries.sort_unstable_by_key(|(key, _)| *key);
            }
            out.push('{');
            for (idx, (key, item)) in entries.into_iter().enumerate() {
                separate(idx, options, depth + 1, out);
                write_json_string(key, options, out);
                out.push_str(&options.key_separator);
                write_json(item, options, depth + 1, out);
            }
            new_line(options, depth, out);
            out.push('}');
        }
        plain => _ = write!(out, "{plain}"),
    }
}

fn separate(idx: usize, options: &Dumps, depth: usize, out: &mut String) {
    if idx > 0 {
        out.push_str(&options.item_separator);
    }
    new_line(options, depth, out);
}

fn new_line(options: &Dumps, depth: usize, out: &mut String) {
    if let Some(indent) = &options.indent {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str(indent));
    }
}

fn write_json_string(text: &str, options: &Dumps, out: &mut String) {
    let quoted = Json::from(text).to_string();
    for c in quoted.chars() {
        if c.is_ascii() || !options.ensure_ascii {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_writes_them() {
        let check = |number: f64, expected: &str| assert_eq!(float(number), expected);
        check(1.0, "1.0");
        check(-0.5, "-0.5");
        check(0.0, "0.0");
        check(0.1, "0.1");
        check(1e15, "1000000000000000.0");
        check(1e16, "1e+16");
        check(1.5e-7, "1.5e-07");
        check(0.0001, "0.0001");
        check(1e-5, "1e-05");
        check(-2e300, "-2e+300");
        check(f64::NAN, "nan");
        check(f64::NEG_INFINITY, "-inf");
    }

    #[test]
    fn values_as_python_prints_them() {
        let check = |json: &str, expected: &str| {
            let value: Json = serde_json::from_str(json).unwrap();
            assert_eq!(str_of(&Value::from_serialize(&value)), expected, "{json}");
        };
        check("null", "None");
        check("true", "True");
        check("\"it's\"", "it's");
        check("[]", "[]");
        check("{}", "{}");
        check("[1, 2.0, \"a\", null]", "[1, 2.0, 'a', None]");
        check(
            "{\"b\": false, \"a\": [\"it's\", \"\\\"'\\n\\u0001\\\\\"]}",
            "{'b': False, 'a': [\"it's\", '\"\\'\\n\\x01\\\\']}",
        );
        check("\"Žluťoučký\"", "Žluťoučký");
        check("[\"Žluťoučký\\u00a0\"]", "['Žluťoučký\\xa0']");
    }
}
