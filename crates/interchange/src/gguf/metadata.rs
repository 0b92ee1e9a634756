//! Metadata of a GGUF file: values by key. Arrays stay bytes until they are asked for, so that a vocabulary takes no
//! more memory than it does in the file.

use std::collections::BTreeMap;

use netweight_container::{Error, Result};

use super::cursor::Cursor;

/// Types of values (GGUF specification, `gguf_metadata_value_type`); the bytes of a fixed one.
const BYTES: [Option<u64>; 13] =
    [Some(1), Some(1), Some(2), Some(2), Some(4), Some(4), Some(4), Some(1), None, None, Some(8), Some(8), Some(8)];
pub(super) const U32: u32 = 4;
const I32: u32 = 5;
pub(super) const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A value to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MetaValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl MetaValue {
    /// Appends type and value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, ty: u32, n_items: usize| {
            out.extend(ARRAY.to_le_bytes());
            out.extend(ty.to_le_bytes());
            out.extend((n_items as u64).to_le_bytes());
        };
        match self {
            MetaValue::U32(value) => out.extend([U32.to_le_bytes(), value.to_le_bytes()].concat()),
            MetaValue::F32(value) => out.extend([F32.to_le_bytes(), value.to_le_bytes()].concat()),
            MetaValue::Bool(value) => {
                out.extend(BOOL.to_le_bytes());
                out.push(u8::from(*value));
            }
            MetaValue::Text(text) => {
                out.extend(STRING.to_le_bytes());
                write_string(text, out);
            }
            MetaValue::Texts(texts) => {
                array(out, STRING, texts.len());
                texts.iter().for_each(|text| write_string(text, out));
            }
            MetaValue::I32s(values) => {
                array(out, I32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            MetaValue::F32s(values) => {
                array(out, F32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Where a value lies in the header.
#[derive(Clone, Copy, Debug)]
struct Place {
    ty: u32,
    start: usize,
    end: usize,
}

/// All values, by key.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    bytes: Vec<u8>,
    places: BTreeMap<String, Place>,
}

/// Where all values lie; `bytes` are what the cursor goes over.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Place>);

impl Places {
    /// Takes `n_values` keys and values.
    pub(super) fn read(cursor: &mut Cursor, n_values: u64) -> Result<Places> {
        let mut places = Places::default();
        for _ in 0..n_values {
            let at = cursor.position() as u64;
            let key = cursor.text()?;
            let ty = cursor.u32()?;
            let start = cursor.position();
            skip(cursor, ty).map_err(|error| error.at_offset(start as u64))?;
            let place = Place { ty, start, end: cursor.position() };
            if places.0.insert(key.clone(), place).is_some() {
                return Err(Error::corrupt(format!("the key {key:?} stands there twice")).at_offset(at));
            }
        }
        Ok(places)
    }

    /// With the bytes that the cursor went over.
    pub(super) fn with_bytes(self, bytes: Vec<u8>) -> Metadata {
        Metadata { bytes, places: self.0 }
    }

    /// A whole number, read before the bytes are kept.
    pub(super) fn number(&self, bytes: &[u8], key: &str) -> Result<Option<u64>> {
        self.0.get(key).map(|place| number(bytes, *place).ok_or_else(|| not_a(key, "whole number"))).transpose()
    }
}

fn skip(cursor: &mut Cursor, ty: u32) -> Result<()> {
    let fixed =
        |ty: u32| BYTES.get(ty as usize).copied().ok_or_else(|| Error::corrupt(format!("values have no type {ty}")));
    match (ty, fixed(ty)?) {
        (_, Some(n_bytes)) => drop(cursor.take(n_bytes)?),
        (STRING, None) => drop(cursor.string()?),
        (_, None) => {
            let item = cursor.u32()?;
            let n_items = cursor.u64()?;
            match (item, fixed(item)?) {
                (_, Some(n_bytes)) => drop(cursor.take(n_items.saturating_mul(n_bytes))?),
                (STRING, None) => {
                    for _ in 0..n_items {
                        cursor.string()?;
                    }
                }
                _ => return Err(Error::unsupported("arrays of arrays")),
            }
        }
    }
    Ok(())
}

fn number(bytes: &[u8], place: Place) -> Option<u64> {
    let value = &bytes[place.start..place.end];
    let mut wide = [0; 8];
    wide.get_mut(..value.len())?.copy_from_slice(value);
    let unsigned = u64::from_le_bytes(wide);
    match place.ty {
        0 | 2 | 4 | 10 => Some(unsigned),
        1 | 3 | 5 | 11 => Some(unsigned).filter(|_| value.last().is_some_and(|last| last & 0x80 == 0)), // Not negative.
        _ => None,
    }
}

fn not_a(key: &str, what: &str) -> Error {
    Error::corrupt(format!("{key} is not a {what}"))
}

impl Metadata {
    /// All keys, sorted.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    fn get<T>(&self, key: &str, what: &str, read: impl FnOnce(Place) -> Option<T>) -> Result<Option<T>> {
        self.places.get(key).map(|place| read(*place).ok_or_else(|| not_a(key, what))).transpose()
    }

    /// A whole number of any width.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "whole number", |place| number(&self.bytes, place))
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "number of type float32", |place| {
            let value = self.bytes[place.start..place.end].first_chunk::<4>()?;
            Some(f32::from_le_bytes(*value)).filter(|value| place.ty == F32 && value.is_finite())
        })
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "boolean", |place| (place.ty == BOOL).then(|| self.bytes[place.start] != 0))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "text", |place| {
            let text = self.bytes[place.start..place.end].get(8..)?;
            (place.ty == STRING).then_some(text).and_then(|text| std::str::from_utf8(text).ok())
        })
    }

    /// The items of an array of that type.
    fn array(&self, place: Place, item: u32) -> Option<(Cursor<'_>, usize)> {
        let mut cursor = Cursor::new(&self.bytes[place.start..place.end]);
        let found = (place.ty == ARRAY).then(|| cursor.u32().ok()).flatten()?;
        let n_items = usize::try_from(cursor.u64().ok()?).ok()?;
        (found == item).then_some((cursor, n_items))
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.get(key, "list of texts", |place| {
            let (mut cursor, n_items) = self.array(place, STRING)?;
            (0..n_items).map(|_| std::str::from_utf8(cursor.string().ok()?).ok()).collect()
        })
    }

    pub(crate) fn ints(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.get(key, "list of integers", |place| {
            let (mut cursor, n_items) = self.array(place, I32).or_else(|| self.array(place, U32))?;
            (0..n_items).map(|_| cursor.u32().ok().map(|value| value as i32)).collect()
        })
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.get(key, "list of numbers of type float32", |place| {
            let (mut cursor, n_items) = self.array(place, F32)?;
            (0..n_items).map(|_| cursor.u32().ok().map(f32::from_bits)).collect()
        })
    }
}
