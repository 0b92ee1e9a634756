//! Conversations: what is remembered, what runs again, and what happens when a turn fails.

mod toys;

use std::ops::ControlFlow;

use netweight_engine::{
    Answer, ChatTemplate, Error, Generator, Interrupt, Message, Options, Session, StopReason, Tokenizer,
};
use serde_json::json;
use toys::{Toy, bookworm, bookworm_tokenizer, files, sentencepiece};

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

fn session(max_positions: usize) -> Session<Toy> {
    let tokenizer = bookworm_tokenizer();
    let template = ChatTemplate::read(bookworm().as_path(), &tokenizer, None).unwrap();
    Session::new(Generator::new(Toy::new(4096, max_positions, 16), tokenizer).unwrap(), template)
}

fn send(session: &mut Session<Toy>, text: &str) -> Result<Answer, Error> {
    let options = Options { max_new_tokens: Some(6), ignore_eos: true, ..Options::default() };
    session.send(text, &options, &Interrupt::new(), |_| GO_ON)
}

#[test]
fn turns_build_on_each_other() {
    let mut session = session(512);
    session.set_system(Some("Be brief."));
    let first = send(&mut session, "Hello there, who are you?").unwrap();
    let prompt_of_first = first.statistics.n_prompt_tokens;
    let second = send(&mut session, "And what do you read?").unwrap();
    // All of the first turn's prompt is in the cache; of the answer what is encoded again as it was generated.
    assert!(second.statistics.n_cached_tokens >= prompt_of_first, "{:?}", second.statistics);
    let expected = [
        Message::user("Hello there, who are you?"),
        Message::assistant(&*first.text),
        Message::user("And what do you read?"),
        Message::assistant(&*second.text),
    ];
    assert_eq!(session.messages(), expected);
    let text = session.generator().tokenizer().decode_all(&session.prompt().unwrap()).unwrap();
    assert!(text.starts_with("<|system|>Be brief.\n<|user|>Hello there, who are you?\n<|assistant|>"), "{text}");
    session.reset();
    assert!(session.messages().is_empty());
    let again = send(&mut session, "Hello there, who are you?").unwrap();
    assert_eq!(again.text, first.text, "nothing of the old conversation is left");
    assert_eq!(again.statistics.n_cached_tokens, prompt_of_first - 1, "but its work is");
}

#[test]
fn a_turn_that_fails_leaves_the_conversation_as_it_was() {
    let mut session = session(64);
    send(&mut session, "Hi").unwrap();
    let before = session.messages().to_vec();
    let error = send(&mut session, &"a very long story, ".repeat(40)).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { n_tokens, n_fit: 64 } if n_tokens > 64), "{error}");
    assert_eq!(session.messages(), before);
    let interrupt = Interrupt::new();
    interrupt.set();
    let answer = session.send("And?", &Options::default(), &interrupt, |_| GO_ON).unwrap();
    assert_eq!((answer.reason, session.messages()), (StopReason::Interrupted, &before[..]));
    assert!(send(&mut session, "And?").is_ok());
    let bad = Options { stops: vec![String::new()], ..Options::default() };
    assert!(session.send("x", &bad, &Interrupt::new(), |_| GO_ON).is_err());
    assert_eq!(session.messages().len(), 4);
}

#[test]
fn templates_may_refuse_a_system_message() {
    let files = files(&[
        ("tokenizer.json", sentencepiece(&["a", "b"])),
        (
            "tokenizer_config.json",
            json!({"chat_template": "{% for m in messages %}{% if m.role == 'system' %}\
                {{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}{% endfor %}"}),
        ),
    ]);
    let tokenizer = Tokenizer::read(&files).unwrap();
    let template = ChatTemplate::read(&files, &tokenizer, None).unwrap();
    let mut session = Session::new(Generator::new(Toy::new(261, 64, 16), tokenizer).unwrap(), template);
    session.set_system(Some("Be brief."));
    let error = send(&mut session, "a").unwrap_err();
    assert!(matches!(&error, Error::Refused(message) if message == "System role not supported"), "{error}");
    session.set_system(None);
    assert!(send(&mut session, "a").is_ok());
}

#[test]
fn without_a_template_the_texts_are_continued() {
    let files = files(&[
        ("tokenizer.json", sentencepiece(&["a", "b"])),
        (
            "tokenizer_config.json",
            json!({"add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>"}),
        ),
    ]);
    let tokenizer = Tokenizer::read(&files).unwrap();
    assert!(ChatTemplate::read(&files, &tokenizer, None).unwrap().is_none());
    let mut session = Session::new(Generator::new(Toy::new(261, 64, 16), tokenizer).unwrap(), None);
    assert!(!session.has_template());
    session.set_system(Some("a"));
    send(&mut session, "b").unwrap();
    let prompt = session.prompt().unwrap();
    assert_eq!(prompt.first(), Some(&1), "the beginning of a text is marked");
    assert_ne!(prompt.last(), Some(&2), "its end is not, since it goes on");
}
