//! The whole way with the model of the repository: its answers are those that transformers 5.23 gives in float32.

mod toys;

use std::ops::ControlFlow;

use netweight_engine::{
    ChatTemplate, CpuDecoder, Generator, Interrupt, KvType, LoadOptions, Message, Options, Precision, Rendering,
    Sampling, Session, Store, Tokenizer,
};
use toys::bookworm;

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

fn store() -> Store {
    Store::open(&bookworm()).unwrap()
}

fn generator() -> Generator<CpuDecoder> {
    let options = LoadOptions {
        n_threads: 1,
        precision: Some(Precision::F32),
        kv_type: KvType::F32,
        max_positions: Some(256),
        max_batch_tokens: Some(7),
        ..LoadOptions::default()
    };
    let decoder = CpuDecoder::load(&store(), &options, &Interrupt::new(), &|_| ()).unwrap();
    Generator::new(decoder, Tokenizer::read(&store()).unwrap()).unwrap()
}

fn options() -> Options {
    Options { max_new_tokens: Some(24), ..Options::default() }
}

#[test]
fn continued_as_transformers_continues() {
    let mut generator = generator();
    let mut check = |repetition_penalty: f32, expected: &str| {
        let prompt = generator.tokenizer().encode_prompt("It was a bright cold day").unwrap();
        let sampling = Sampling { repetition_penalty, ..Sampling::default() };
        let options = Options { sampling, continues_text: true, ..options() };
        let answer = generator.generate(&prompt, &options, &Interrupt::new(), |_| GO_ON).unwrap();
        assert_eq!(answer.text, expected);
    };
    check(1.0, ", and a little more, and a little more.\n'I am sure I am a-going, sir");
    check(1.3, ", and the sun had been lighted. The moonlight was still in the dark, and the sky was so full");
}

#[test]
fn answered_as_transformers_answers() {
    let mut generator = generator();
    let template = ChatTemplate::read(&store(), generator.tokenizer(), None).unwrap().unwrap();
    let mut check = |messages: &[Message], expected: &str| {
        let prompt = template.render(messages, &Rendering::for_answer()).unwrap();
        let prompt = generator.tokenizer().encode_bare(&prompt).unwrap();
        let answer = generator.generate(&prompt, &options(), &Interrupt::new(), |_| GO_ON).unwrap();
        assert_eq!(answer.text, expected);
    };
    let whales = "'s the whale's boat's".to_owned() + &" whale's".repeat(9);
    check(&[Message::user("Tell me about the sea.")], &whales);
    check(
        &[Message::user("Who are you?"), Message::assistant("A worm."), Message::user("What do you eat?")],
        "urate, and I have not yet seen him, and I have no doubt that he is not a man of the",
    );
}

/// A conversation that keeps its cache says what one says that runs everything anew.
#[test]
fn turns_are_the_same_with_and_without_a_cache() {
    let template = || ChatTemplate::read(&store(), &Tokenizer::read(&store()).unwrap(), None).unwrap();
    let mut session = Session::new(generator(), template());
    for (turn, question) in ["Who are you?", "What do you eat?", "Where is the whale?"].into_iter().enumerate() {
        let mut fresh = generator();
        let answer = session.send(question, &options(), &Interrupt::new(), |_| GO_ON).unwrap();
        assert_eq!(answer.statistics.n_cached_tokens > 0, turn > 0);
        let before = &session.messages()[..2 * turn + 1];
        let prompt = template().unwrap().render(before, &Rendering::for_answer()).unwrap();
        let prompt = fresh.tokenizer().encode_bare(&prompt).unwrap();
        let expected = fresh.generate(&prompt, &options(), &Interrupt::new(), |_| GO_ON).unwrap();
        assert_eq!(answer.tokens, expected.tokens);
    }
}
