//! Which template a checkpoint's files hold: goes in files and perhaps a name, comes out a template's source. Next in
//! the flow: template.rs.

use std::path::Path;

use netweight_container::{Context, Error, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::text::{Settings, SideFiles, json_file, text_file};

const DEFAULT_NAME: &str = "default";

/// `chat_template.json`.
#[derive(Deserialize)]
struct TemplateFile {
    chat_template: Value,
}

/// A template of a list with names.
#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// Source of the template of that name or, without a name, of the default one; `None` where there is no template.
/// `chat_template.jinja` comes before `chat_template.json`, and both before `tokenizer_config.json`.
pub fn find(files: &dyn SideFiles, name: Option<&str>) -> Result<Option<String>> {
    if let Some(name) = name.filter(|name| *name != DEFAULT_NAME && is_file_name(name)) {
        let source = text_file(files, &format!("additional_chat_templates/{name}.jinja"))?;
        if source.is_some() {
            return Ok(source);
        }
    }
    if name.is_none_or(|name| name == DEFAULT_NAME)
        && let Some(source) = text_file(files, "chat_template.jinja")?
    {
        return Ok(Some(source));
    }
    if let Some(file) = json_file::<TemplateFile>(files, "chat_template.json")? {
        return pick(file.chat_template, name).in_file(Path::new("chat_template.json"));
    }
    match Settings::read(files)?.chat_template {
        Some(value) => pick(value, name).in_file(Path::new("tokenizer_config.json")),
        None => pick(Value::Null, name),
    }
}

fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\\']) && name != ".." && name != "."
}

/// A string is the default template; a list has templates with names.
fn pick(value: Value, name: Option<&str>) -> Result<Option<String>> {
    let templates: Vec<NamedTemplate> = match value {
        Value::Null => Vec::new(),
        Value::String(template) => vec![NamedTemplate { name: DEFAULT_NAME.to_owned(), template }],
        list => serde_json::from_value(list).map_err(|error| Error::corrupt(format!("chat_template: {error}")))?,
    };
    if templates.is_empty() && name.is_none() {
        return Ok(None);
    }
    let names: Vec<&str> = templates.iter().map(|template| template.name.as_str()).collect();
    let wanted = name.unwrap_or(DEFAULT_NAME);
    let idx = names.iter().position(|name| *name == wanted).or((name.is_none() && names.len() == 1).then_some(0));
    match idx {
        Some(idx) => Ok(templates.into_iter().nth(idx).map(|template| template.template)),
        None if names.is_empty() => Err(Error::invalid(format!("there is no chat template {wanted:?}"))),
        None => Err(Error::invalid(format!("there is no chat template {wanted:?}, only {}", names.join(", ")))),
    }
}
