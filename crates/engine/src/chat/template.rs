//! The template that a model's publisher ships: goes in messages, comes out the prompt's text, rendered as the Python
//! library transformers renders it. Next in the flow: ../generate/mod.rs.

use std::error::Error as _;

use jiff::Zoned;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Map, Value, json};

use super::functions::{self, Raised};
use super::{Message, Rendering, find, methods, python};
use crate::text::{SideFiles, Tokenizer};
use crate::{Error, Result};

const NAME: &str = "chat template";
/// Steps of the template's program. Long conversations need some hundred thousand; a loop without an end stops here,
/// after seconds.
const MAX_STEPS: u64 = 20_000_000;

/// A chat template, ready to render.
///
/// ```
/// use netweight_engine::{ChatTemplate, Message, Rendering, Tokenizer};
///
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
/// let tokenizer = Tokenizer::read(folder)?;
/// let template = ChatTemplate::read(folder, &tokenizer, None)?.expect("bookworm has one");
/// let prompt = template.render(&[Message::user("What is in the attic?")], &Rendering::for_answer())?;
/// assert_eq!(prompt, "<|user|>What is in the attic?\n<|assistant|>");
/// let ids = tokenizer.encode_bare(&prompt)?; // the template has put there all that belongs around the text
/// assert_eq!(ids.first(), Some(&1));
/// # Ok::<(), netweight_engine::Error>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    roles: Map<String, Value>,
}

impl ChatTemplate {
    /// Reads the template of that name or, without a name, the default one; `None` where the model has no template.
    /// The time that `strftime_now` sees is that of this call, so that a conversation keeps its beginning.
    ///
    /// # Errors
    /// `File`: no template of that name, or a broken file; `Template` where it is not a valid template.
    pub fn read<F: SideFiles + ?Sized>(
        files: &F,
        tokenizer: &Tokenizer,
        name: Option<&str>,
    ) -> Result<Option<ChatTemplate>> {
        let source = find::find(&files, name)?;
        source.map(|source| ChatTemplate::new(&source, tokenizer.roles(), Zoned::now())).transpose()
    }

    /// A template from its source, with the texts of special tokens that it can name, such as `bos_token`, and the
    /// time that it may ask for.
    ///
    /// # Errors
    /// `Template` where it is not a valid template.
    pub fn new<'a>(
        source: &str,
        roles: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: Zoned,
    ) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_unknown_method_callback(methods::call);
        environment.set_formatter(|out, _, value| match value.as_str() {
            Some(text) => Ok(out.write_str(text)?),
            None => Ok(out.write_str(&python::str_of(value))?),
        });
        functions::add(&mut environment, now);
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(broken)?;
        let roles = roles.into_iter().map(|(role, token)| (role.to_owned(), Value::from(token))).collect();
        Ok(ChatTemplate { environment, roles })
    }

    /// The prompt's text for a conversation.
    ///
    /// # Errors
    /// `Refused` with the template's own words where it raises an error, for example since it knows no system
    /// message; `Template` where it fails.
    pub fn render(
        &self,
        messages: &[Message], // (n_messages)
        rendering: &Rendering,
    ) -> Result<String> {
        let mut context = self.roles.clone();
        context.insert("documents".to_owned(), Value::Null);
        context.extend(rendering.variables.clone());
        context.insert("messages".to_owned(), json!(messages));
        context.insert("tools".to_owned(), json!(rendering.tools));
        context.insert("add_generation_prompt".to_owned(), json!(rendering.add_generation_prompt));
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(broken)
    }
}

/// The template's own words if it raised the error, else what is wrong and where.
fn broken(error: minijinja::Error) -> Error {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return Error::Refused(message.clone());
        }
        source = inner.source();
    }
    Error::Template(error.to_string())
}

/// `{% generation %}` marks what is trained on and changes nothing in the text, but has its own scope, as `with` has.
/// Between `{% raw %}` and `{% endraw %}` nothing is a tag.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut is_raw) = (source, false);
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let words = tag.trim_start_matches(['-', '+']).trim_start();
        let name = &words[..words.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(words.len())];
        let after = words[name.len()..].trim_start().trim_start_matches(['-', '+']);
        let replacement = match name {
            _ if !after.starts_with("%}") => continue,
            "generation" if !is_raw => "with",
            "endgeneration" if !is_raw => "endwith",
            "raw" | "endraw" => {
                is_raw = name == "raw";
                continue;
            }
            _ => continue,
        };
        out.push_str(&tag[..tag.len() - words.len()]);
        out.push_str(replacement);
        rest = &words[name.len()..];
    }
    out.push_str(rest);
    out
}
