//! The generation loop over a toy decoder: chunks, limits, stop strings, interrupts, and the cache between runs.

mod toys;

use std::ops::ControlFlow;

use netweight_engine::decoder::{Batch, Choice};
use netweight_engine::{Answer, Decoder, Error, Event, Generator, Interrupt, Options, Sampling, StopReason, Tokenizer};
use netweight_kernels_cuda::twin;
use toys::{Pass, Toy, bookworm_tokenizer, files, sentencepiece};

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());
const VOCAB_SIZE: usize = 4096;

fn ids(text: &str) -> Vec<u32> {
    bookworm_tokenizer().encode(text).unwrap()
}

/// The answer of a model that says `script` after the prompt, and the pieces that were printed.
fn say(script: &[u32], options: &Options) -> (Answer, Vec<String>) {
    let prompt = ids("A prompt");
    let toy = Toy::scripted(VOCAB_SIZE, 64, prompt.len(), script);
    let mut generator = Generator::new(toy, bookworm_tokenizer()).unwrap();
    let mut pieces = Vec::new();
    let answer = generator.generate(&prompt, options, &Interrupt::new(), |event| {
        if let Event::Text(piece) = event {
            pieces.push(piece.to_owned());
        }
        GO_ON
    });
    let answer = answer.unwrap();
    assert_eq!(answer.text, pieces.concat());
    (answer, pieces)
}

fn with_stops(stops: &[&str]) -> Options {
    Options { stops: stops.iter().map(|stop| (*stop).to_owned()).collect(), ..Options::default() }
}

#[test]
fn answers_end_where_they_should() {
    let script: Vec<u32> = [ids("One two three four"), vec![0], ids(" never")].concat();
    let n_before_end = ids("One two three four").len() + 1;
    let check = |options: Options, text: &str, reason: StopReason, n_tokens: usize| {
        let (answer, _) = say(&script, &options);
        assert_eq!((answer.text.as_str(), answer.reason), (text, reason), "{options:?}");
        assert_eq!(answer.tokens, script[..n_tokens], "{options:?}");
        assert_eq!(answer.statistics.n_generated_tokens, n_tokens);
        assert_eq!(answer.statistics.n_decode_steps, n_tokens.saturating_sub(1), "{options:?}");
    };
    check(Options::default(), "One two three four", StopReason::EndOfText(0), n_before_end);
    let limit = |n: usize| Options { max_new_tokens: Some(n), ..Options::default() };
    check(limit(0), "", StopReason::MaxNewTokens, 0);
    let first = bookworm_tokenizer().decode(&script[..1]).unwrap();
    check(limit(1), &first, StopReason::MaxNewTokens, 1);
    check(limit(n_before_end), "One two three four", StopReason::EndOfText(0), n_before_end);
    check(limit(n_before_end - 1), "One two three four", StopReason::MaxNewTokens, n_before_end - 1);
    let n_all = script.len();
    let endless = Options { ignore_eos: true, ..limit(n_all) };
    check(endless, "One two three four never", StopReason::MaxNewTokens, n_all);
}

#[test]
fn stop_strings_are_never_printed() {
    let script: Vec<u32> = [ids("One two three four"), vec![2], ids(" more"), vec![0]].concat();
    let check = |stops: &[&str], text: &str, reason: StopReason| {
        let (answer, pieces) = say(&script, &with_stops(stops));
        assert_eq!((answer.text.as_str(), answer.reason), (text, reason), "{stops:?} {pieces:?}");
    };
    check(&["two th"], "One ", StopReason::StopString(0));
    check(&["nothing", "ee"], "One two thr", StopReason::StopString(1));
    check(&["One"], "", StopReason::StopString(0));
    check(&["more than this"], "One two three four more", StopReason::EndOfText(0));
    check(&["<|assistant|>"], "One two three four", StopReason::StopString(0));
    check(&["more", "<|endoftext|>"], "One two three four ", StopReason::StopString(0));
    check(&["<|endoftext|>"], "One two three four more", StopReason::EndOfText(0));
}

#[test]
fn characters_are_printed_whole() {
    let script = [ids("a 🐎 žluťoučký 中"), vec![0]].concat();
    let (answer, pieces) = say(&script, &Options::default());
    assert_eq!(answer.text, "a 🐎 žluťoučký 中");
    assert!(pieces.iter().all(|piece| !piece.is_empty() && !piece.contains('\u{fffd}')), "{pieces:?}");
    // The last character is cut: what there is of it stands for itself at the end.
    let horse = ids("🐎");
    let (answer, _) = say(&[&horse[..horse.len() - 1], &[0]].concat(), &Options::default());
    assert_eq!(answer.text, "\u{fffd}");
}

#[test]
fn a_full_context_ends_the_answer() {
    let prompt = ids("A prompt");
    let (n_prompt, n_fit) = (prompt.len(), prompt.len() + 3);
    let toy = Toy::scripted(VOCAB_SIZE, n_fit, n_prompt, &ids("One two three four five six seven"));
    let mut generator = Generator::new(toy, bookworm_tokenizer()).unwrap();
    assert_eq!(generator.context_len(), n_fit);
    let mut run = |prompt: &[u32]| generator.generate(prompt, &Options::default(), &Interrupt::new(), |_| GO_ON);
    let answer = run(&prompt).unwrap();
    // The fourth token needs no place of its own.
    assert_eq!((answer.reason, answer.tokens.len()), (StopReason::ContextFull, 4));
    let error = run(&vec![5; n_fit + 1]).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { n_tokens, n_fit: fit } if n_tokens == n_fit + 1 && fit == n_fit));
    assert!(error.to_string().contains(&format!("{} tokens", n_fit + 1)) && error.to_string().contains("fit"));
    let full = run(&vec![5; n_fit]).unwrap();
    assert_eq!((full.reason, full.tokens.len()), (StopReason::ContextFull, 1));
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    let check = |prompt: &[u32], change: fn(&mut Options), expected: &str| {
        let toy = Toy::new(VOCAB_SIZE, 8, 4);
        let passes = toy.passes.clone();
        let mut generator = Generator::new(toy, bookworm_tokenizer()).unwrap();
        let mut options = Options::default();
        change(&mut options);
        let mut n_events = 0;
        let result = generator.generate(prompt, &options, &Interrupt::new(), |_| {
            n_events += 1;
            GO_ON
        });
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(passes.borrow().is_empty() && n_events == 0);
    };
    check(&[], |_| (), "the prompt is empty");
    check(&[5; 9], |_| (), "9 tokens, but only 8 fit");
    check(&[5, 4096], |_| (), "token 4096");
    check(&[5], |o| o.sampling.top_p = 2.0, "top_p is 2");
    check(&[5], |o| o.sampling.temperature = f32::NAN, "temperature is NaN");
    check(&[5], |o| o.stops = vec![String::new()], "stop string is empty");
    let small = Toy::new(100, 8, 4);
    let error = Generator::new(small, bookworm_tokenizer()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("4096") && error.contains("100"), "{error}");
}

#[test]
fn prompts_run_in_chunks_with_logits_for_the_last_token() {
    let toy = Toy::new(VOCAB_SIZE, 64, 4);
    let passes = toy.passes.clone();
    let mut generator = Generator::new(toy, bookworm_tokenizer()).unwrap();
    let prompt: Vec<u32> = (10..20).collect();
    let mut progress = Vec::new();
    let options = Options { max_new_tokens: Some(0), ..Options::default() };
    let answer = generator.generate(&prompt, &options, &Interrupt::new(), |event| {
        if let Event::Prefill { n_done, n_total } = event {
            progress.push((n_done, n_total));
        }
        GO_ON
    });
    assert_eq!(answer.unwrap().statistics.n_prompt_tokens, 10);
    assert_eq!(progress, [(0, 10), (4, 10), (8, 10), (10, 10)]);
    let pass = |first_position: usize, tokens: &[u32], n_logits: usize| Pass {
        first_position,
        tokens: tokens.to_vec(),
        n_logits,
    };
    let expected = [pass(0, &prompt[..4], 0), pass(4, &prompt[4..8], 0), pass(8, &prompt[8..], 1)];
    assert_eq!(*passes.borrow(), expected);
}

fn sampled(max_batch_tokens: usize) -> Generator<Toy> {
    Generator::new(Toy::new(VOCAB_SIZE, 64, max_batch_tokens), bookworm_tokenizer()).unwrap()
}

fn some_options(seed: u64) -> Options {
    let sampling = Sampling { temperature: 1.0, top_k: 50, repetition_penalty: 1.1, seed, ..Sampling::default() };
    Options { sampling, max_new_tokens: Some(12), ignore_eos: true, ..Options::default() }
}

fn tokens(generator: &mut Generator<Toy>, prompt: &[u32], options: &Options) -> (Vec<u32>, usize) {
    let answer = generator.generate(prompt, options, &Interrupt::new(), |_| GO_ON).unwrap();
    (answer.tokens, answer.statistics.n_cached_tokens)
}

/// Chunks and cached beginnings change what runs and never the answer.
#[test]
fn the_cache_changes_nothing_but_the_work() {
    let first: Vec<u32> = (10..30).collect();
    let mut generator = sampled(7);
    let (answer, n_cached) = tokens(&mut generator, &first, &some_options(1));
    assert_eq!((n_cached, answer.len()), (0, 12));
    assert_eq!(generator.cached(), [&first[..], &answer[..11]].concat(), "the last token did not run");
    let check = |generator: &mut Generator<Toy>, prompt: &[u32], expected_cached: usize| {
        let (answer, n_cached) = tokens(generator, prompt, &some_options(2));
        assert_eq!(n_cached, expected_cached, "{prompt:?}");
        assert_eq!(answer, tokens(&mut sampled(64), prompt, &some_options(2)).0, "{prompt:?}");
    };
    let longer = [&first[..], &answer[..], &[5, 6, 7]].concat();
    check(&mut generator, &longer, 31);
    check(&mut generator, &longer, longer.len() - 1);
    check(&mut generator, &longer[..25], 24);
    let other_end = [&longer[..22], &[9, 9, 9]].concat();
    check(&mut generator, &other_end, 22);
    check(&mut generator, &[99, 98], 0);
    generator.reset();
    check(&mut generator, &[99, 98], 0);
    check(&mut generator, &[99], 0);
}

#[test]
fn interrupts_stop_at_once_and_leave_the_cache_usable() {
    let prompt: Vec<u32> = (10..30).collect();
    let expected = tokens(&mut sampled(4), &prompt, &some_options(3)).0;
    for interrupted_pass in 0..12 {
        let interrupt = Interrupt::new();
        let mut toy = Toy::new(VOCAB_SIZE, 64, 4);
        let (passes, setter) = (toy.passes.clone(), interrupt.clone());
        toy.on_pass = Box::new(move |pass| {
            if pass == interrupted_pass {
                setter.set()
            }
        });
        let mut generator = Generator::new(toy, bookworm_tokenizer()).unwrap();
        let answer = generator.generate(&prompt, &some_options(3), &interrupt, |_| GO_ON).unwrap();
        assert_eq!(answer.reason, StopReason::Interrupted);
        assert_eq!(passes.borrow().len(), interrupted_pass + 1, "nothing ran after it");
        // The prompt takes five passes; the one that was interrupted gave no logits.
        assert_eq!(answer.tokens, expected[..interrupted_pass.saturating_sub(4)]);
        interrupt.clear();
        assert_eq!(tokens(&mut generator, &prompt, &some_options(3)).0, expected);
    }
    let interrupt = Interrupt::new();
    interrupt.set();
    let answer = sampled(4).generate(&prompt, &some_options(3), &interrupt, |_| GO_ON).unwrap();
    assert_eq!((answer.reason, answer.tokens.len()), (StopReason::Interrupted, 0));
}

#[test]
fn the_caller_ends_the_run() {
    let prompt: Vec<u32> = (10..30).collect();
    for last_event in 0..20 {
        let (mut n_events, mut printed) = (0, String::new());
        let answer = sampled(4).generate(&prompt, &some_options(3), &Interrupt::new(), |event| {
            if let Event::Text(piece) = event {
                printed.push_str(piece);
            }
            n_events += 1;
            if n_events > last_event { ControlFlow::Break(()) } else { GO_ON }
        });
        let answer = answer.unwrap();
        assert_eq!((answer.reason, n_events), (StopReason::Caller, last_event + 1));
        assert!(answer.text.starts_with(&printed));
    }
}

#[test]
fn seeds_decide() {
    let prompt = [10, 11, 12];
    let run = |seed: u64| tokens(&mut sampled(4), &prompt, &some_options(seed)).0;
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// A toy that chooses tokens by itself, and counts them.
struct Choosing(Toy, usize);

impl Decoder for Choosing {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.0.max_positions()
    }

    fn max_batch_tokens(&self) -> usize {
        self.0.max_batch_tokens()
    }

    fn forward(&mut self, batch: &Batch<'_>, interrupt: &Interrupt, logits: &mut [f32]) -> Result<(), Error> {
        self.0.forward(batch, interrupt, logits)
    }

    fn choose(&mut self, batch: &Batch<'_>, choice: &Choice, interrupt: &Interrupt) -> Result<Option<u32>, Error> {
        let mut logits = vec![0.0; VOCAB_SIZE];
        self.forward(batch, interrupt, &mut logits)?;
        self.1 += 1;
        Ok(match choice {
            Choice::Likeliest => twin::likeliest(&logits),
            Choice::Drawn(how) => twin::draw(&logits, how),
        })
    }
}

/// A decoder that chooses tokens gives the answers of one that gives logits, and is asked wherever nothing but logits
/// counts.
#[test]
fn who_chooses_changes_nothing() {
    let mut chooses =
        Generator::new(Choosing(Toy::new(VOCAB_SIZE, 64, 7), 0), bookworm_tokenizer()).expect("a generator");
    let mut gives_logits = sampled(7);
    let drawn = Sampling { temperature: 0.8, top_k: 50, top_p: 0.9, seed: 5, ..Sampling::default() };
    let penalized = Sampling { presence_penalty: 0.5, ..drawn.clone() };
    for (sampling, n_chosen) in [(Sampling::default(), 11), (drawn.clone(), 22), (drawn, 33), (penalized, 33)] {
        let options = Options { sampling, ..some_options(0) };
        let prompt: Vec<u32> = (10..30).collect();
        let answer = chooses.generate(&prompt, &options, &Interrupt::new(), |_| GO_ON).expect("an answer");
        assert_eq!(answer.tokens, tokens(&mut gives_logits, &prompt, &options).0);
        assert_eq!((answer.statistics.n_decode_steps, chooses.decoder().1), (11, n_chosen));
    }
}

#[test]
fn a_continued_text_keeps_its_space() {
    let tokenizer = || Tokenizer::read(&files(&[("tokenizer.json", sentencepiece(&["▁Hello", "▁world"]))])).unwrap();
    let (bos, hello, world, eos) = (1, 259, 260, 2);
    let run = |continues_text: bool| {
        let toy = Toy::scripted(261, 64, 2, &[world, eos]);
        let mut generator = Generator::new(toy, tokenizer()).unwrap();
        let options = Options { continues_text, ..Options::default() };
        generator.generate(&[bos, hello], &options, &Interrupt::new(), |_| GO_ON).unwrap().text
    };
    assert_eq!((run(true).as_str(), run(false).as_str()), (" world", "world"));
}

#[test]
fn statistics_count() {
    let prompt: Vec<u32> = (10..30).collect();
    let mut generator = sampled(4);
    let first = generator.generate(&prompt, &some_options(1), &Interrupt::new(), |_| GO_ON).unwrap().statistics;
    assert_eq!((first.n_prompt_tokens, first.n_cached_tokens), (20, 0));
    assert_eq!((first.n_generated_tokens, first.n_decode_steps), (12, 11));
    assert!(first.prefill_tokens_per_second() > 0.0 && first.decode_tokens_per_second() > 0.0);
    let again = generator.generate(&prompt, &some_options(1), &Interrupt::new(), |_| GO_ON).unwrap().statistics;
    assert_eq!(again.n_cached_tokens, 19);
    assert_eq!(netweight_engine::Statistics::default().decode_tokens_per_second(), 0.0);
}
