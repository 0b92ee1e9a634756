//! Typed reading of `config.json`: goes in a JSON object and a family's defaults, come out checked numbers.
//!
//! As in transformers, a field that is absent has the family's default, and one that is null has none.
//! Next in the flow: read.rs.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What a field is when the file does not have it: these are the defaults of transformers' configuration classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Preset {
    Bool(bool),
    Int(u64),
    Float(f64),
    Text(&'static str),
}

impl Preset {
    fn value(self) -> Value {
        match self {
            Preset::Bool(value) => value.into(),
            Preset::Int(value) => value.into(),
            Preset::Float(value) => value.into(),
            Preset::Text(value) => value.into(),
        }
    }
}

/// One JSON object of a configuration, with its path for messages.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    defaults: &'a [(&'a str, Preset)],
    path: &'a str, // "" or "text_config"
}

impl<'a> Fields<'a> {
    pub fn new(object: &'a Map<String, Value>, defaults: &'a [(&'a str, Preset)], path: &'a str) -> Fields<'a> {
        Fields { object, defaults, path }
    }

    /// Path of a field, for messages.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Whether the file itself has the field, null or not.
    pub fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// The field's value or its default; `None` where it is null, or absent without a default.
    pub fn get(&self, name: &str) -> Option<Cow<'a, Value>> {
        let value = match self.object.get(name) {
            Some(value) => Cow::Borrowed(value),
            None => Cow::Owned(self.defaults.iter().find(|(field, _)| *field == name)?.1.value()),
        };
        (!value.is_null()).then_some(value)
    }

    /// An object within this one; `None` where it is absent or null.
    ///
    /// # Errors
    /// `Invalid` where it is something else.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(Error::invalid(self.path(name), other, "an object")),
        }
    }

    pub fn bool(&self, name: &str) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(false) };
        value.as_bool().ok_or_else(|| Error::invalid(self.path(name), &value, "true or false"))
    }

    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().map(|text| Some(text.to_owned()));
        text.ok_or_else(|| Error::invalid(self.path(name), &value, "a string"))
    }

    /// An integer in `1..=max`.
    pub fn count(&self, name: &str, max: usize) -> Result<usize> {
        self.count_if_any(name, max)?.ok_or_else(|| Error::Missing { field: self.path(name) })
    }

    /// An integer in `1..=max`, or `None`.
    pub fn count_if_any(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let count = integer(&value).filter(|count| (1..=max).contains(count));
        let expected = || Error::invalid(self.path(name), &value, format!("an integer from 1 to {max}"));
        count.map(Some).ok_or_else(expected)
    }

    /// A finite number above zero.
    pub fn positive(&self, name: &str) -> Result<f64> {
        self.positive_if_any(name)?.ok_or_else(|| Error::Missing { field: self.path(name) })
    }

    /// A finite number above zero, or `None`.
    pub fn positive_if_any(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // It has to stay a positive number as f32 too, for that is what the forward pass computes with.
        let number = value.as_f64().filter(|number| (*number as f32).is_finite() && *number as f32 > 0.0);
        number.map(Some).ok_or_else(|| Error::invalid(self.path(name), &value, "a number above zero"))
    }

    /// A list of exactly `len` finite numbers above zero.
    pub fn positives(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let value = self.get(name).ok_or_else(|| Error::Missing { field: self.path(name) })?;
        let expected = || Error::invalid(self.path(name), &value, format!("a list of {len} numbers above zero"));
        let list = value.as_array().filter(|list| list.len() == len).ok_or_else(expected)?;
        let number = |item: &Value| item.as_f64().map(|n| n as f32).filter(|n| n.is_finite() && *n > 0.0);
        list.iter().map(|item| number(item).ok_or_else(expected)).collect()
    }
}

/// An integer, also where it is written as `4096.0`.
pub(crate) fn integer(value: &Value) -> Option<usize> {
    let of_float = |number: f64| (number.fract() == 0.0 && (0.0..=1e15).contains(&number)).then_some(number as u64);
    usize::try_from(value.as_u64().or_else(|| value.as_f64().and_then(of_float))?).ok()
}
