//! Chat templates: rendered as the Python library transformers renders them, found where publishers put them, and
//! refused in words that help. `chat/make_expected.py` made the expected texts.

mod toys;

use jiff::civil::date;
use netweight_engine::{ChatTemplate, Error, Message, Rendering, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use toys::{Files, bookworm, bookworm_tokenizer, files, sentencepiece};

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    roles: Map<String, Value>,
    tools: Option<Value>,
    #[serde(default)]
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct Expected {
    name: String,
    text: Option<String>,
    refused: Option<String>,
}

fn read(name: &str) -> String {
    let path = format!("{}/tests/chat/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn template(source: &str, roles: &Map<String, Value>) -> Result<ChatTemplate, Error> {
    let roles = roles.iter().map(|(role, token)| (role.as_str(), token.as_str().expect("a token")));
    let now = date(2024, 7, 26).at(9, 5, 3, 0).in_tz("UTC").expect("a time");
    ChatTemplate::new(source, roles, now)
}

#[test]
fn rendered_as_transformers_renders() {
    let cases: Vec<Case> = serde_json::from_str(&read("cases.json")).unwrap();
    let expected: Vec<Expected> = serde_json::from_str(&read("expected.json")).unwrap();
    assert!(cases.len() == expected.len() && cases.len() > 60);
    let mut findings = Vec::new();
    for (case, expected) in cases.into_iter().zip(expected) {
        assert_eq!(case.name, expected.name);
        let rendering = Rendering {
            add_generation_prompt: case.add_generation_prompt,
            tools: case.tools,
            variables: case.variables,
        };
        let rendered = template(&read(&case.template), &case.roles)
            .and_then(|template| template.render(&case.messages, &rendering));
        let found = match &rendered {
            Ok(text) => (Some(text.clone()), None),
            Err(Error::Refused(message)) => (None, Some(message.clone())),
            Err(error) => panic!("{}: {error}", case.name),
        };
        if found != (expected.text.clone(), expected.refused.clone()) {
            findings.push(format!("{}\n{:?}\n{:?} {:?}", case.name, found, expected.text, expected.refused));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
}

fn render(source: &str) -> Result<String, Error> {
    template(source, &Map::new())?.render(&[Message::user("Hi")], &Rendering::for_answer())
}

#[test]
fn errors_say_whose_fault_it_is() {
    let check = |source: &str, expected: &str| {
        let error = render(source).expect_err(source).to_string();
        assert!(error.contains(expected), "{source}: {error}");
    };
    check("{{ raise_exception('No system role!') }}", "refuses these messages: No system role!");
    check("{% if %}", "cannot be used: syntax error");
    check("{{ messages.nothing.at_all }}", "cannot be used: undefined value");
    check("{{ 'a'.no_such_method() }}", "cannot be used: unknown method");
    check("{{ nothing | tojson }}", "cannot be used");
    check("{{ strftime_now('%!') }}", "cannot be used");
    check("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", "cannot be used");
    check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot be used");
}

#[test]
fn where_templates_are_found() {
    let named = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]);
    let check = |entries: &[(&str, Value)],
                 jinja: &[(&str, &str)],
                 name: Option<&str>,
                 expected: Result<Option<&str>, &str>| {
        let mut files: Files = files(entries);
        files.extend(jinja.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())));
        files.extend(toys::files(&[("tokenizer.json", sentencepiece(&[]))]));
        let tokenizer = Tokenizer::read(&files).unwrap();
        let rendered = ChatTemplate::read(&files, &tokenizer, name)
            .and_then(|found| found.map(|found| found.render(&[], &Rendering::default())).transpose());
        match (rendered, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{entries:?} {name:?}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{entries:?} {name:?}: {found:?} {expected:?}"),
        }
    };
    let config = |value: Value| ("tokenizer_config.json", json!({ "chat_template": value }));
    check(&[], &[], None, Ok(None));
    check(&[config(json!(null))], &[], None, Ok(None));
    check(&[config(json!("a"))], &[], None, Ok(Some("a")));
    check(&[config(json!("a"))], &[], Some("default"), Ok(Some("a")));
    check(&[config(named.clone())], &[], None, Ok(Some("a")));
    check(&[config(named.clone())], &[], Some("tool_use"), Ok(Some("b")));
    check(&[config(named.clone())], &[], Some("rag"), Err("\"rag\", only default, tool_use"));
    check(&[config(json!([{"name": "only", "template": "c"}]))], &[], None, Ok(Some("c")));
    check(&[config(json!([]))], &[], None, Ok(None));
    check(&[config(json!([]))], &[], Some("rag"), Err("no chat template \"rag\""));
    check(&[config(json!(7))], &[], None, Err("tokenizer_config.json: corrupt: chat_template"));
    check(&[config(json!("a"))], &[("chat_template.jinja", "j")], None, Ok(Some("j")));
    check(&[config(json!("a")), ("chat_template.json", json!({"chat_template": "f"}))], &[], None, Ok(Some("f")));
    check(&[("chat_template.json", json!({}))], &[], None, Err("chat_template.json: corrupt"));
    let additional = [("chat_template.jinja", "j"), ("additional_chat_templates/rag.jinja", "r")];
    check(&[], &additional, Some("rag"), Ok(Some("r")));
    check(&[], &additional, Some("../x"), Err("no chat template"));
    check(&[config(json!("{{ eos_token }}{{ bos_token }}"))], &[], None, Ok(Some("")));
}

#[test]
fn special_tokens_reach_the_template() {
    let files = files(&[
        ("tokenizer.json", sentencepiece(&[])),
        (
            "tokenizer_config.json",
            json!({"bos_token": "<s>", "eos_token": {"content": "</s>"},
                   "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}),
        ),
    ]);
    let tokenizer = Tokenizer::read(&files).unwrap();
    let template = ChatTemplate::read(&files, &tokenizer, None).unwrap().unwrap();
    assert_eq!(template.render(&[Message::user("Hi")], &Rendering::default()).unwrap(), "<s>Hi</s>");
}

#[test]
fn bookworm_has_a_template() {
    let tokenizer = bookworm_tokenizer();
    let template = ChatTemplate::read(bookworm().as_path(), &tokenizer, None).unwrap().unwrap();
    let messages = [Message::user("Hi"), Message::assistant("Ho"), Message::user("He")];
    let prompt = template.render(&messages, &Rendering::for_answer()).unwrap();
    assert_eq!(prompt, "<|user|>Hi\n<|assistant|>Ho\n<|user|>He\n<|assistant|>");
}
