//! Methods of Python's strings that templates call and minijinja-contrib lacks, or counts in bytes where Python counts
//! characters. Next in the flow: template.rs.

use minijinja::value::from_args;
use minijinja::{Error, ErrorKind, State, Value};

/// Called where a template calls a method: `value.method(args)`.
pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str().map(|text| string_method(text, method, args)) {
        Some(Ok(Some(result))) => Ok(result),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "find" => Value::from(position(text, text.find(one(args)?))),
        "rfind" => Value::from(position(text, text.rfind(one(args)?))),
        "count" => Value::from(count(text, one(args)?)),
        "removeprefix" => Value::from(text.strip_prefix(one(args)?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one(args)?).unwrap_or(text)),
        "partition" => match text.split_once(one(args)?) {
            Some((before, after)) => strings(&[before, one(args)?, after]),
            None => strings(&[text, "", ""]),
        },
        "rpartition" => match text.rsplit_once(one(args)?) {
            Some((before, after)) => strings(&[before, one(args)?, after]),
            None => strings(&["", "", text]),
        },
        "split" | "rsplit" => {
            let (separator, n_splits): (Option<&str>, Option<i64>) = from_args(args)?;
            let limit = n_splits.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
            strings(&split(text, separator, limit, method == "rsplit")?)
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn one<'a>(args: &'a [Value]) -> Result<&'a str, Error> {
    from_args::<(&'a str,)>(args).map(|(only,)| only)
}

fn strings(items: &[&str]) -> Value {
    items.iter().map(|item| Value::from(*item)).collect()
}

/// Python counts characters; -1 where nothing was found.
fn position(text: &str, byte_idx: Option<usize>) -> i64 {
    byte_idx.map_or(-1, |idx| text[..idx].chars().count() as i64)
}

fn count(text: &str, what: &str) -> usize {
    if what.is_empty() { text.chars().count() + 1 } else { text.matches(what).count() }
}

/// At most `limit` parts, counted from the left, or from the right with `from_right`. Without a separator runs of
/// whitespace separate.
fn split<'a>(text: &'a str, separator: Option<&str>, limit: usize, from_right: bool) -> Result<Vec<&'a str>, Error> {
    match separator {
        Some("") => Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
            parts.reverse();
            Ok(parts)
        }
        Some(separator) => Ok(text.splitn(limit, separator).collect()),
        None if from_right => Ok(split_words_from_right(text, limit)),
        None => Ok(split_words(text, limit)),
    }
}

fn split_words(text: &str, limit: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_start());
    while parts.len() + 1 < limit
        && let Some((word, after)) = rest.split_once(char::is_whitespace)
    {
        parts.push(word);
        rest = after.trim_start();
    }
    parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
    parts
}

fn split_words_from_right(text: &str, limit: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end());
    while parts.len() + 1 < limit
        && let Some((before, word)) = rest.rsplit_once(char::is_whitespace)
    {
        parts.push(word);
        rest = before.trim_end();
    }
    parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    #[test]
    fn strings_behave_as_in_python() {
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(super::call);
        let check = |expression: &str, expected: &str| {
            let found = environment.render_str(&format!("{{{{ {expression} }}}}"), ()).unwrap();
            assert_eq!(found, expected, "{expression}");
        };
        check("'žába'.find('b')", "2");
        check("'žábab'.rfind('b')", "4");
        check("'a'.find('x')", "-1");
        check("'aXbXc'.split('X', 1)|join('|')", "a|bXc");
        check("'aXbXc'.split('X')|join('|')", "a|b|c");
        check("'aXbXc'.split('X', -1)|join('|')", "a|b|c");
        check("'aXbXc'.rsplit('X', 1)|join('|')", "aXb|c");
        check("' a  b c '.split()|join('|')", "a|b|c");
        check("' a  b c '.split(none, 1)|join('|')", "a|b c ");
        check("' a  b c '.rsplit(none, 1)|join('|')", " a  b|c");
        check("'   '.split()|length", "0");
        check("'a=b=c'.partition('=')|join('|')", "a|=|b=c");
        check("'a=b=c'.rpartition('=')|join('|')", "a=b|=|c");
        check("'abc'.partition('=')|join('|')", "abc||");
        check("'abc'.removeprefix('a')", "bc");
        check("'abc'.removesuffix('a')", "abc");
        check("'aaa'.count('aa')", "1");
        check("'aaa'.count('')", "4");
        check("'  a '.strip()", "a");
        check("'\\n\\na'.lstrip('\\n')", "a");
        check("'abc'.startswith('a')", "True");
        for broken in ["'a'.split('')", "'a'.find()", "'a'.find(1)", "'a'.nothing()"] {
            assert!(environment.render_str(&format!("{{{{ {broken} }}}}"), ()).is_err(), "{broken}");
        }
    }
}
