//! `netweight eval`: how well a model predicts a text, and how far it is from another one.

use std::path::PathBuf;

use netweight_engine::Interrupt;
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
    /// Tokens of a window.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub window: usize,
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
    let interrupt = Interrupt::new();
    let mut options = args.how.options();
    options.max_positions = Some(args.how.context.unwrap_or(args.window));
    let mut model = models::load(&args.model, &options, &interrupt, ui)?;
    let tokens = tokens(&model, &text, args.tokens)?;
    let base = args.against.as_ref().map(|path| models::load(path, &options, &interrupt, ui)).transpose()?;
    let windows = Windows { n_inputs: args.window };
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
        let report = alone_json(args, &model, &found, begin.elapsed().as_secs_f64());
        ui.answer("eval", &report, || alone(&model, &found, begin.elapsed().as_secs_f64()))?;
        return Ok(0);
    };
    let (base_model, other) = (&mut base.decoder, &mut model.decoder);
    let found = compare(base_model, other, &tokens, windows, &interrupt, &mut progress).map_err(failed)?;
    drop(bar);
    ui.answer("eval", &compared_json(args, &model, &base, &found), || compared(&model, &found))?;
    Ok(0)
}

fn tokens(model: &Loaded, text: &str, most: Option<usize>) -> Result<Vec<u32>, Failure> {
    use netweight_engine::Decoder as _;
    let tokenizer = models::tokenizer(&model.store, model.decoder.vocab_size())?;
    let mut tokens = tokenizer.encode_bare(text).map_err(Failure::running)?;
    tokens.truncate(most.unwrap_or(usize::MAX));
    Ok(tokens)
}

fn alone(model: &Loaded, found: &Perplexity, seconds: f64) -> String {
    format!(
        "model       {}\nperplexity  {:.4} +- {:.4}\nmean nll    {:.5} +- {:.5} nats\ntokens      {} predicted in {}, {:.0} a second",
        loaded_line(model.decoder.report()),
        found.value(),
        found.value_error(),
        found.mean_nll,
        found.standard_error,
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

fn alone_json(args: &Args, model: &Loaded, found: &Perplexity, seconds: f64) -> Value {
    let mut report = perplexity_json(found);
    report["model"] = json!(args.model.display().to_string());
    report["window"] = json!(args.window);
    report["seconds"] = json!(seconds);
    report["load"] = loaded_json(model.decoder.report());
    report
}

fn compared(model: &Loaded, found: &Comparison) -> String {
    let quantiles = |summary: &Summary| {
        let Summary { mean, standard_error, median, p90, p99, p999, max, .. } = summary;
        format!("{mean:.6} +- {standard_error:.6}   {median:.6} {p90:.6} {p99:.6} {p999:.6} {max:.6}")
    };
    let n = found.divergence.n;
    [
        format!("model        {}", loaded_line(model.decoder.report())),
        format!("perplexity   {:.4} +- {:.4}", found.other.value(), found.other.value_error()),
        format!("of the base  {:.4} +- {:.4}", found.base.value(), found.base.value_error()),
        format!("ln ratio     {:.6} +- {:.6}", found.ln_ratio.mean, found.ln_ratio.standard_error),
        "             mean                  median   90 %     99 %     99.9 %   most".to_owned(),
        format!("divergence   {}", quantiles(&found.divergence)),
        format!(
            "p change     {:.6} +- {:.6}, root of mean square {:.6}",
            found.probability_change.mean, found.probability_change.standard_error, found.probability_change_rms
        ),
        format!("same top     {:.3} % +- {:.3} %", 100.0 * found.same_top, 100.0 * found.same_top_error),
        format!("acceptance   {:.3} % in speculative sampling", 100.0 * found.acceptance.mean),
        format!("same bits    {} of {}", found.n_identical, counted(n as u64, "position")),
    ]
    .join("\n")
}

fn compared_json(args: &Args, model: &Loaded, base: &Loaded, found: &Comparison) -> Value {
    let summary = |summary: &Summary| {
        json!({
            "mean": summary.mean, "error": summary.standard_error, "median": summary.median, "p90": summary.p90,
            "p99": summary.p99, "p999": summary.p999, "min": summary.min, "max": summary.max,
        })
    };
    json!({
        "model": args.model.display().to_string(),
        "against": args.against.as_ref().map(|path| path.display().to_string()),
        "window": args.window,
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
