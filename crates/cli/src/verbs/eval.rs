//! `netweight eval`: how well a model predicts a text, and how far it is from another one.

use std::path::{Path, PathBuf};

use netweight_engine::{Interrupt, Precision, Store};
use netweight_eval::{Comparison, Perplexity, Summary, Windows, compare, perplexity};
use netweight_pack::Progress;
use serde_json::{Value, json};

use crate::bar::Bar;
use crate::failure::{Failure, Kind};
use crate::models::{self, Loaded, ModelArgs, loaded_json, loaded_line};
use crate::ui::Ui;
use crate::units::{counted, duration};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight eval Llama-3.1-8B.nw --text wiki.test.raw
  netweight eval small --text wiki.test.raw --against Llama-3.1-8B    Divergence on the same tokens

The text is cut into consecutive windows; every token but the first is predicted once, with the context of its own
window. Standard errors take a window as one observation, since its tokens depend on each other.";

/// Tokens of a window where nobody asks for a number.
const DEFAULT_WINDOW: usize = 512;

/// Measure perplexity on a text, and the distance to another model
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: a checkpoint or an archive.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// A text file in UTF-8; - for standard input.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Another model with the same vocabulary, taken as the truth.
    #[arg(long, value_name = "BASE")]
    pub against: Option<PathBuf>,
    /// Tokens of a window [default: 512, or as many as the model knows positions].
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Tokens of the text to take [default: all].
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// How to run it.
    #[command(flatten)]
    pub how: ModelArgs,
}

/// Loads, runs, prints.
///
/// # Errors
/// What keeps a model from running, or a text from being scored.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let text = models::read_text(&args.text)?;
    let store = models::open(&args.model)?;
    let spec = netweight_engine::read_spec(&store).map_err(|error| Failure::running(error).at(&args.model))?;
    let window = args.window.unwrap_or(DEFAULT_WINDOW.min(spec.max_positions));
    let tokens = tokens(&store, spec.vocab, &text, args.tokens)?;
    let base = args.against.as_ref().map(|path| base_store(path, spec.vocab)).transpose()?;
    let interrupt = Interrupt::new();
    let mut options = args.how.options();
    options.max_positions = Some(args.how.context.unwrap_or(window));
    let mut model = models::load_from(store, &options, &interrupt, ui)?;
    // What is measured is what integers cost: the truth is computed without.
    options.precision = options.precision.filter(|&precision| precision != Precision::Int8);
    let base = base.map(|store| models::load_from(store, &options, &interrupt, ui)).transpose()?;
    let windows = Windows { n_inputs: window };
    let begin = std::time::Instant::now();
    let bar = Bar::new(ui, "eval");
    bar.start(tokens.len() as u64);
    let mut seen = 0;
    let mut progress = |done: usize, _: usize| {
        bar.advance((done - seen) as u64);
        seen = done;
    };
    let failed = |error: netweight_eval::Error| match error {
        netweight_eval::Error::Engine(error) => Failure::running(error),
        error => Failure::new(Kind::Usage, error.to_string(), "see `netweight eval --help`"),
    };
    let Some(mut base) = base else {
        let found = perplexity(&mut model.decoder, &tokens, windows, &interrupt, &mut progress).map_err(failed)?;
        drop(bar);
        if found.mean_nll.is_nan() {
            let hint = "its weights or its config are damaged";
            return Err(Failure::new(Kind::Input, "the model's logits are not numbers", hint).at(&args.model));
        }
        let report = alone_json(args, window, &model, &found, begin.elapsed().as_secs_f64());
        ui.answer("eval", &report, || alone(&model, &found, begin.elapsed().as_secs_f64()))?;
        return Ok(0);
    };
    let (base_model, other) = (&mut base.decoder, &mut model.decoder);
    let found = compare(base_model, other, &tokens, windows, &interrupt, &mut progress).map_err(failed)?;
    drop(bar);
    ui.answer("eval", &compared_json(args, window, &model, &base, &found), || compared(&model, &found))?;
    Ok(0)
}

fn tokens(store: &Store, vocab_size: usize, text: &str, most: Option<usize>) -> Result<Vec<u32>, Failure> {
    let tokenizer = models::tokenizer(store, vocab_size)?;
    let mut tokens = tokenizer.encode_bare(text).map_err(Failure::running)?;
    tokens.truncate(most.unwrap_or(usize::MAX));
    if tokens.len() < 2 {
        return Err(Failure::new(
            Kind::Usage,
            "a text of less than two tokens",
            "a token is predicted from those before",
        ));
    }
    Ok(tokens)
}

/// The store of the model that is taken as the truth, which must know the same tokens.
fn base_store(path: &Path, vocab_size: usize) -> Result<Store, Failure> {
    let store = models::open(path)?;
    let spec = netweight_engine::read_spec(&store).map_err(|error| Failure::running(error).at(path))?;
    if spec.vocab != vocab_size {
        let what = format!("it knows {} tokens, the other model {vocab_size}", spec.vocab);
        return Err(Failure::new(Kind::Input, what, "compare models with the same vocabulary").at(path));
    }
    Ok(store)
}

/// `+- ERROR`; a single window tells nothing of how windows differ.
fn spread(error: f64, digits: usize) -> String {
    if error.is_nan() { "(one window)".to_owned() } else { format!("+- {error:.digits$}") }
}

fn alone(model: &Loaded, found: &Perplexity, seconds: f64) -> String {
    format!(
        "model       {}\nperplexity  {:.4} {}\nmean nll    {:.5} {} nats\ntokens      {} predicted in {}, {:.0} a second",
        loaded_line(model.decoder.report()),
        found.value(),
        spread(found.value_error(), 4),
        found.mean_nll,
        spread(found.standard_error, 5),
        found.n_predicted,
        duration(seconds),
        found.n_predicted as f64 / seconds.max(1e-9),
    )
}

fn perplexity_json(found: &Perplexity) -> Value {
    json!({
        "perplexity": found.value(),
        "perplexity_error": found.value_error(),
        "mean_nll": found.mean_nll,
        "mean_nll_error": found.standard_error,
        "n_predicted": found.n_predicted,
    })
}

fn alone_json(args: &Args, window: usize, model: &Loaded, found: &Perplexity, seconds: f64) -> Value {
    let mut report = perplexity_json(found);
    report["model"] = json!(args.model.display().to_string());
    report["window"] = json!(window);
    report["seconds"] = json!(seconds);
    report["load"] = loaded_json(model.decoder.report());
    report
}

fn compared(model: &Loaded, found: &Comparison) -> String {
    let quantiles = |summary: &Summary| {
        let Summary { mean, standard_error, median, p90, p99, p999, max, .. } = summary;
        let error = spread(*standard_error, 6);
        format!("{mean:.6} {error}   {median:.6} {p90:.6} {p99:.6} {p999:.6} {max:.6}")
    };
    let n = found.divergence.n;
    [
        format!("model        {}", loaded_line(model.decoder.report())),
        format!("perplexity   {:.4} {}", found.other.value(), spread(found.other.value_error(), 4)),
        format!("of the base  {:.4} {}", found.base.value(), spread(found.base.value_error(), 4)),
        format!("ln ratio     {:.6} {}", found.ln_ratio.mean, spread(found.ln_ratio.standard_error, 6)),
        "             mean                  median   90 %     99 %     99.9 %   most".to_owned(),
        format!("divergence   {}", quantiles(&found.divergence)),
        format!(
            "p change     {:.6} {}, root of mean square {:.6}",
            found.probability_change.mean,
            spread(found.probability_change.standard_error, 6),
            found.probability_change_rms
        ),
        format!("same top     {:.3} % {}", 100.0 * found.same_top, spread(100.0 * found.same_top_error, 3)),
        format!("acceptance   {:.3} % in speculative sampling", 100.0 * found.acceptance.mean),
        format!("same bits    {} of {}", found.n_identical, counted(n as u64, "position")),
    ]
    .join("\n")
}

fn compared_json(args: &Args, window: usize, model: &Loaded, base: &Loaded, found: &Comparison) -> Value {
    let summary = |summary: &Summary| {
        json!({
            "mean": summary.mean, "error": summary.standard_error, "median": summary.median, "p90": summary.p90,
            "p99": summary.p99, "p999": summary.p999, "min": summary.min, "max": summary.max,
        })
    };
    json!({
        "model": args.model.display().to_string(),
        "against": args.against.as_ref().map(|path| path.display().to_string()),
        "window": window,
        "n_predicted": found.divergence.n,
        "other": perplexity_json(&found.other),
        "base": perplexity_json(&found.base),
        "ln_ratio": summary(&found.ln_ratio),
        "divergence": summary(&found.divergence),
        "probability_change": summary(&found.probability_change),
        "probability_change_rms": found.probability_change_rms,
        "same_top": found.same_top,
        "same_top_error": found.same_top_error,
        "acceptance": summary(&found.acceptance),
        "n_identical": found.n_identical,
        "load": loaded_json(model.decoder.report()),
        "load_base": loaded_json(base.decoder.report()),
    })
}
