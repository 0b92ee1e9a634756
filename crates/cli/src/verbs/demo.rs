//! `netweight demo`: the whole round on the bundled model, every step checked, then a text that it writes, raw and
//! compressed; nothing left behind.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use netweight_container::{Checkpoint, SourceFile};
use netweight_engine::{
    Decoder as _, DeviceChoice, Generator, Interrupt, Layout, LoadOptions, Options, Store, Tokenizer, read_spec,
};
use netweight_pack::{
    CompressOptions, Digest, InspectOptions, Inspection, Report, RestoreOptions, Silent, VerifyOptions, compress,
    inspect, restore, verify,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::args::LevelArg;
use crate::failure::{Failure, Kind, Reads};
use crate::models;
use crate::signals;
use crate::ui::Ui;
use crate::units::{bytes, counted, duration, grouped, percent, rate};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight demo
  netweight demo --level max
  netweight demo --model Llama-3.1-8B      With a checkpoint of yours

Works in a temporary folder, which needs twice the model's size, and removes it.";

const LAST_LINE: &str = "every file is back, bit for bit";

/// Compress, verify and restore the bundled model, compare every file, and run it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Another checkpoint than the bundled one.
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// How much time to spend on size.
    #[arg(long, value_enum, default_value = "default", value_name = "LEVEL")]
    pub level: LevelArg,
}

/// Compresses, verifies, restores, compares.
///
/// # Errors
/// Those of the verbs; `Damaged` where a file did not come back as it was.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => bundled_model()?,
    };
    let scratch = tempfile::Builder::new().prefix("netweight-demo-").tempdir();
    let scratch = scratch.map_err(|error| Failure::io(&std::env::temp_dir(), error))?;
    signals::scratch(scratch.path());
    let round = Round { model: &model, archive: scratch.path().join("archive"), back: scratch.path().join("back") };
    ui.step(|| format!("model       {}", shown(&model)))?;

    let written = round.compress(args.level)?;
    let found = round.inspect()?;
    ui.step(|| compressed(&written, &found))?;
    let seconds = round.verify()?;
    ui.step(|| format!("verified    against the original, byte by byte: {}", timing(written.original_bytes, seconds)))?;
    let restored = round.restore()?;
    ui.step(|| format!("restored    {}", timing(restored.original_bytes, restored.seconds)))?;
    let files = round.compare(ui)?;
    let story = if round.is_model() { Some(round.generate(ui)?) } else { None };

    let report = json!({
        "model": model.display().to_string(),
        "level": args.level.0.name(),
        "original_bytes": written.original_bytes,
        "archive_bytes": written.archive_bytes,
        "ratio": written.ratio(),
        "stored_bytes": found.totals.stored_bytes,
        "bound_bytes": found.totals.bound_bytes,
        "joint_bytes": found.totals.joint_bytes,
        "compress_seconds": written.seconds,
        "verify_seconds": seconds,
        "restore_seconds": restored.seconds,
        "files": files.iter().map(|(path, sha256)| json!({ "path": path, "sha256": sha256 })).collect::<Vec<_>>(),
        "is_identical": true,
        "generated": story,
    });
    ui.answer("demo", &report, || LAST_LINE.to_owned())?;
    Ok(0)
}

/// What the demo has the model continue.
const PROMPT: &str = "It was a dark night, and the";
/// How far.
const N_NEW_TOKENS: usize = 24;

/// The bundled model: in the source tree that this program was built in, or near the program.
fn bundled_model() -> Result<PathBuf, Failure> {
    let mut places = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"))];
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(folder.join("models/bookworm"));
        places.push(folder.join("../share/netweight/models/bookworm"));
    }
    let found = places.into_iter().find(|place| place.is_dir());
    found.map(|place| place.canonicalize().unwrap_or(place)).ok_or_else(|| {
        let hint = "pass any checkpoint with --model, or run the demo from the source tree";
        Failure::new(Kind::Input, "the bundled model is not beside this program", hint)
    })
}

/// One way there and back.
struct Round<'a> {
    model: &'a Path,
    archive: PathBuf,
    back: PathBuf,
}

impl Round<'_> {
    fn compress(&self, level: LevelArg) -> Result<Report, Failure> {
        let options = CompressOptions { level: level.0, ..CompressOptions::default() };
        compress(self.model, &self.archive, &options, &Silent)
            .map_err(|error| Failure::reading(error, Reads::Checkpoint))
    }

    fn inspect(&self) -> Result<Inspection, Failure> {
        let options = InspectOptions { bounds: true, ..InspectOptions::default() };
        inspect(&self.archive, &options, &Silent).map_err(|error| Failure::reading(error, Reads::Archive))
    }

    /// Gives the seconds it took.
    fn verify(&self) -> Result<f64, Failure> {
        let options = VerifyOptions { against: Some(self.model.to_path_buf()), ..VerifyOptions::default() };
        let report =
            verify(&self.archive, &options, &Silent).map_err(|error| Failure::reading(error, Reads::Archive))?;
        match report.problems.first() {
            None => Ok(report.seconds),
            Some(problem) => Err(different(&format!("{}: {}", problem.path, problem.what))),
        }
    }

    fn restore(&self) -> Result<Report, Failure> {
        let restored = restore(&self.archive, &self.back, &RestoreOptions::default(), &Silent);
        restored.map_err(|error| Failure::reading(error, Reads::Archive))
    }

    /// Whether the checkpoint is a model that can be run: a lone file has no config beside its archive.
    fn is_model(&self) -> bool {
        self.archive.is_dir()
            && Store::open(self.model).is_ok_and(|store| read_spec(&store).is_ok() && Tokenizer::read(&store).is_ok())
    }

    /// Continues a text from raw and from compressed weights, which must say the same.
    fn generate(&self, ui: &Ui) -> Result<String, Failure> {
        let raw = continued(self.model, Some(Layout::Bf16), ui)?;
        let compressed = continued(&self.archive, None, ui)?;
        if raw.0 != compressed.0 {
            return Err(different("the text that the compressed model writes"));
        }
        ui.step(|| format!("generated   {PROMPT}{}", compressed.0.trim_end()))?;
        ui.step(|| format!("            the same from {} and from {}", raw.1, compressed.1))?;
        Ok(compressed.0)
    }

    /// Compares the SHA-256 of every file, read anew on both sides; gives the files.
    fn compare(&self, ui: &Ui) -> Result<Vec<(String, Digest)>, Failure> {
        let (originals, restored) = (files(self.model)?, files(&self.back)?);
        let mut same = Vec::new();
        for file in &originals {
            let sha256 = sha256(&file.path)?;
            let back = restored.iter().find(|back| back.relative == file.relative || restored.len() == 1);
            let back = back.ok_or_else(|| different(&format!("{} is missing", file.relative)))?;
            if self::sha256(&back.path)? != sha256 {
                return Err(different(&format!("{} differs", file.relative)));
            }
            ui.step(|| format!("sha256      {sha256}  {}", file.relative))?;
            same.push((file.relative.clone(), sha256));
        }
        match originals.len() == restored.len() {
            true => Ok(same),
            false => Err(different("there are more files than before")),
        }
    }
}

/// What the model at `path` makes of the prompt, and how it lay in memory.
fn continued(path: &Path, layout: Option<Layout>, ui: &Ui) -> Result<(String, String), Failure> {
    let options = LoadOptions { device: DeviceChoice::Cpu, layout, ..LoadOptions::default() };
    let loaded = models::load_from(models::open(path)?, &options, &Interrupt::new(), ui)?;
    let how = format!("{:.2} bits a weight", loaded.decoder.report().bits_per_weight());
    let tokenizer = models::tokenizer(&loaded.store, loaded.decoder.vocab_size())?;
    let prompt = tokenizer.encode_prompt(PROMPT).map_err(Failure::running)?;
    let mut generator = Generator::new(loaded.decoder, tokenizer).map_err(Failure::running)?;
    let options = Options { max_new_tokens: Some(N_NEW_TOKENS), continues_text: true, ..Options::default() };
    let answer = generator.generate(&prompt, &options, &Interrupt::new(), |_| ControlFlow::Continue(()));
    Ok((answer.map_err(Failure::running)?.text, how))
}

fn different(what: &str) -> Failure {
    Failure::new(Kind::Damaged, what, "this must not happen: please report it, with the checkpoint it happens on")
}

fn files(path: &Path) -> Result<Vec<SourceFile>, Failure> {
    Checkpoint::list(path).map(|found| found.files).map_err(|error| Failure::reading(error, Reads::Checkpoint))
}

fn sha256(path: &Path) -> Result<Digest, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io(path, error))?; // the bundled model fits
    Ok(Digest(Sha256::digest(bytes).into()))
}

/// The path, relative to where the caller is if that is shorter.
fn shown(model: &Path) -> String {
    let here = std::env::current_dir().ok();
    here.and_then(|here| model.strip_prefix(here).ok()).unwrap_or(model).display().to_string()
}

fn timing(n_bytes: u64, seconds: f64) -> String {
    format!("{}, {}", duration(seconds), rate(n_bytes, seconds))
}

fn compressed(written: &Report, found: &Inspection) -> String {
    let (original, archive) = (written.original_bytes, written.archive_bytes);
    let share = percent(archive as f64, original as f64);
    let mut lines = vec![
        format!("files       {}, {}, {}", written.files.len(), counted(written.n_tensors, "tensor"), bytes(original)),
        format!("compressed  {} -> {} bytes, {share}", grouped(original), grouped(archive)),
        format!("            {}", timing(original, written.seconds)),
    ];
    let totals = &found.totals;
    if let (Some(stored), Some(bound), Some(joint)) = (totals.stored_bytes, totals.bound_bytes, totals.joint_bytes) {
        let share = |part: f64| percent(part, totals.bytes as f64);
        lines.push(format!(
            "tensors     {} of their size; at the entropy of the exponents {}",
            share(stored as f64),
            share(bound)
        ));
        lines.push(format!("            at the entropy of whole weights (their first 16 bits) {}", share(joint)));
    }
    lines.join("\n")
}
