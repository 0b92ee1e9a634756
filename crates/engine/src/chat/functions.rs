//! Functions and filters that templates expect: `raise_exception`, `strftime_now`, `tojson`, `string`. Next in the
//! flow: methods.rs.

use std::fmt;

use jiff::Zoned;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::python::{self, Dumps};

/// What a template said as it refused its messages; source of the error.
#[derive(Debug)]
pub struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Adds them all. `now` is what `strftime_now` formats.
pub fn add(environment: &mut Environment<'static>, now: Zoned) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| strftime(format, &now));
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::str_of(value));
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::str_of(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime(format: &str, now: &Zoned) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}")))
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(value: &Value, ensure_ascii: Option<&Value>, kwargs: Kwargs) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "an undefined value has no JSON"));
    }
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, "this value has no JSON").with_source(error))?;
    let indent: Option<Value> = kwargs.get("indent")?;
    let indent = indent.as_ref().map(indent_text).transpose()?.flatten();
    let separators: Option<(String, String)> = kwargs.get::<Option<Value>>("separators")?.map(pair).transpose()?;
    let ensure_ascii = ensure_ascii.map(|flag| Ok(flag.is_true())).unwrap_or_else(|| flag(&kwargs, "ensure_ascii"))?;
    let sort_keys = flag(&kwargs, "sort_keys")?;
    kwargs.assert_all_used()?;
    let item_separator = if indent.is_some() { "," } else { ", " };
    let (item_separator, key_separator) = separators.unwrap_or_else(|| (item_separator.to_owned(), ": ".to_owned()));
    let options = Dumps { indent, item_separator, key_separator, ensure_ascii, sort_keys };
    Ok(Value::from_safe_string(python::dumps(&json, &options)))
}

fn flag(kwargs: &Kwargs, name: &str) -> Result<bool, Error> {
    Ok(kwargs.get::<Option<Value>>(name)?.is_some_and(|value| value.is_true()))
}

/// A number of spaces, or the text itself.
fn indent_text(indent: &Value) -> Result<Option<String>, Error> {
    const MAX_INDENT: usize = 64;
    match indent.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(None),
        ValueKind::String => Ok(indent.as_str().map(str::to_owned)),
        _ => {
            let n_spaces = usize::try_from(indent.clone())?.min(MAX_INDENT);
            Ok(Some(" ".repeat(n_spaces)))
        }
    }
}

fn pair(value: Value) -> Result<(String, String), Error> {
    let items: Vec<String> = value.try_iter()?.map(|item| python::str_of(&item)).collect();
    <[String; 2]>::try_from(items)
        .map(|[item, key]| (item, key))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "separators are two strings"))
}
