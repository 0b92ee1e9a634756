//! Errors become text here and only here: kind, exit code, place, message, and what to do next.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use netweight_container::FORMAT;
use netweight_pack::{Error, Place};
use serde_json::{Value, json};

use crate::advice::{argument_advice, io_advice};

/// What a failure means to a caller: one exit code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An archive is truncated, corrupt, or not what its original is.
    Damaged,
    /// The command line asks for something that cannot be.
    Usage,
    /// The input is not what the verb reads.
    Input,
    /// The operating system refused.
    Io,
    /// Something is at the destination already.
    Exists,
    /// Ctrl-C.
    Interrupted,
}

/// Kind, name in JSON, exit code.
const KINDS: [(Kind, &str, u8); 6] = [
    (Kind::Damaged, "damaged", 1),
    (Kind::Usage, "usage", 2),
    (Kind::Input, "input", 3),
    (Kind::Io, "io", 4),
    (Kind::Exists, "exists", 5),
    (Kind::Interrupted, "interrupted", 130),
];

impl Kind {
    fn row(self) -> &'static (Kind, &'static str, u8) {
        KINDS.iter().find(|row| row.0 == self).unwrap_or(&KINDS[0])
    }

    /// Name in JSON.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Exit code of the process.
    pub fn exit_code(self) -> u8 {
        self.row().2
    }
}

/// What a verb reads: damage to an archive and damage to a checkpoint mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// `restore`, `verify`: damage is what they look for.
    Archive,
    /// `compress`, `estimate`, `inspect`, `bench`: damaged input is unusable input.
    Checkpoint,
    /// `import`, `export`: what other engines read, or what can be written for them.
    Foreign,
}

/// Why a verb failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it means.
    pub kind: Kind,
    /// What happened, without the place.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do next.
    pub hint: Option<String>,
    /// Whether a disk is full; the verb then says how much it needs.
    pub is_disk_full: bool,
}

impl Failure {
    /// A failure that has no error of a crate below behind it.
    pub fn new(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> Failure {
        let place = Place::default();
        Failure { kind, message: message.into(), place, hint: Some(hint.into()), is_disk_full: false }
    }

    /// The same failure, at `path`.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Failure {
        self.place.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// What the operating system refused to do with `path`.
    pub fn io(path: &Path, source: io::Error) -> Failure {
        Failure::reading(Error::io(path, source), Reads::Checkpoint)
    }

    /// An error of `netweight-pack`, in words.
    pub fn reading(error: Error, reads: Reads) -> Failure {
        let place = error.place().clone();
        let (kind, message, hint): (Kind, String, Cow<'static, str>) = match &error {
            Error::Truncated { expected, actual, .. } => {
                let message = format!("truncated: {expected} bytes expected, {actual} there");
                (damage_kind(reads), message, damage_hint(reads).into())
            }
            Error::Corrupt { what, .. } => (damage_kind(reads), format!("corrupt: {what}"), damage_hint(reads).into()),
            Error::Unsupported { what, .. } if reads == Reads::Foreign => (
                Kind::Input,
                format!("not known here: {what}"),
                "`netweight help import` and `netweight help export` list what is known".into(),
            ),
            Error::Unsupported { what, .. } => {
                let hint = format!("update netweight: this version reads archive format {FORMAT}");
                (Kind::Input, format!("unsupported: {what}"), hint.into())
            }
            Error::InvalidArgument { what, .. } => {
                let (kind, hint) = argument_advice(what);
                (kind, what.to_string(), hint.into())
            }
            Error::Io { source, .. } => {
                let (message, hint) = io_advice(source);
                (Kind::Io, message, hint.into())
            }
            Error::Interrupted { .. } => {
                (Kind::Interrupted, "interrupted".to_owned(), "run the same command again".into())
            }
            _ => (Kind::Input, error.to_string(), "update netweight".into()),
        };
        let is_disk_full = matches!(&error, Error::Io { source, .. } if is_disk_full(source));
        Failure { kind, message, place, hint: Some(hint.into_owned()), is_disk_full }
    }

    /// An error of `netweight-engine`, in words.
    pub fn running(error: netweight_engine::Error) -> Failure {
        use netweight_engine::Error as Engine;
        use netweight_model::Error::UnknownArchitecture; // which lists those that are known
        let known = format!("netweight runs {}", netweight_model::architectures().collect::<Vec<_>>().join(", "));
        let fitting = match error {
            Engine::GpuTooSmall { fitting_context: Some(n), .. } => {
                format!("a context of {n} tokens would fit (--context {n}); or pass --device cpu")
            }
            _ => String::new(),
        };
        let (kind, hint) = match error {
            Engine::File(error) => return Failure::reading(error, Reads::Checkpoint),
            Engine::Interrupted => (Kind::Interrupted, "nothing is left behind"),
            Engine::Config(UnknownArchitecture { .. }) => {
                (Kind::Input, "other models can be compressed and restored, but not run")
            }
            Engine::Config(_) => (Kind::Input, known.as_str()),
            Engine::PromptTooLong { .. } => (Kind::Usage, "shorten the prompt, or give more room with --context"),
            Engine::InvalidArgument(_) => (Kind::Usage, "`--help` after the verb lists its flags"),
            Engine::Device(ref error) => gpu_advice(error),
            Engine::GpuTooSmall { fitting_context: Some(_), .. } => (Kind::Io, fitting.as_str()),
            Engine::GpuTooSmall { .. } => {
                (Kind::Io, "no context is short enough: raise --gpu-memory if you set it, or pass --device cpu")
            }
            Engine::Refused(_) => {
                (Kind::Usage, "say it in roles that the template knows, or pass --raw to use no template")
            }
            Engine::Template(_) => (Kind::Input, "pass --raw to use no template"),
            _ => (Kind::Input, "is it a complete checkpoint? `netweight inspect` shows what is there"),
        };
        Failure::new(kind, error.to_string(), hint)
    }

    /// The same failure; where a disk is full, the hint says how many bytes the verb writes at most.
    #[must_use]
    pub fn with_space_needed(mut self, needed: impl FnOnce() -> Option<u64>) -> Failure {
        if self.is_disk_full
            && let Some(n_bytes) = needed()
        {
            self.hint = Some(format!(
                "up to {} ({} bytes) are needed there; free some or choose another destination with -o, then run \
                 the same command again: finished files of a folder are kept",
                crate::units::bytes(n_bytes),
                crate::units::grouped(n_bytes)
            ));
        }
        self
    }

    /// Place and message in one line.
    pub fn line(&self) -> String {
        format!("{}{}", self.place, self.message)
    }

    /// What `--json` writes.
    pub fn to_json(&self) -> Value {
        json!({ "error": {
            "kind": self.kind.name(),
            "message": self.message,
            "path": self.place.path.as_ref().map(|path| path.display().to_string()),
            "tensor": self.place.tensor,
            "offset": self.place.offset,
            "hint": self.hint,
            "exit_code": self.kind.exit_code(),
        } })
    }
}

/// What a GPU's error means, and what to do next.
fn gpu_advice(error: &netweight_kernels_cuda::Error) -> (Kind, &'static str) {
    use netweight_kernels_cuda::Error as Gpu;
    match error {
        Gpu::NoDevice(_) | Gpu::Unsupported(_) | Gpu::InvalidArgument(_) => {
            (Kind::Usage, "pass --device cpu to run it on the CPU")
        }
        Gpu::OutOfMemory { what, .. } if what.contains("pinned") => {
            (Kind::Io, "the host's memory is short: raise --gpu-memory if you set it, or pass --device cpu")
        }
        Gpu::OutOfMemory { .. } => {
            (Kind::Io, "a shorter context takes less; nvidia-smi shows who else has the GPU; or pass --device cpu")
        }
        Gpu::Driver { what, .. } if what.contains("OUT_OF_MEMORY") => {
            (Kind::Io, "nvidia-smi shows who else has the GPU; wait for them, or pass --device cpu")
        }
        Gpu::CacheFull { .. } => (Kind::Usage, "shorten the prompt, or give more room with --context"),
        _ => (Kind::Io, "run it again; if that fails too, pass --device cpu, and please report it"),
    }
}

fn is_disk_full(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn damage_kind(reads: Reads) -> Kind {
    match reads {
        Reads::Archive => Kind::Damaged,
        Reads::Checkpoint | Reads::Foreign => Kind::Input,
    }
}

fn damage_hint(reads: Reads) -> &'static str {
    match reads {
        Reads::Archive => {
            "fetch the archive again, or use another copy; `netweight verify` lists all that is wrong with it"
        }
        Reads::Foreign => "fetch it again, or have it written again: it is damaged or incomplete",
        Reads::Checkpoint => "is it a safetensors file? If so, fetch it again: it is damaged or incomplete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let check = |error: Error, reads: Reads, expected: u8| {
            let line = error.to_string();
            assert_eq!(Failure::reading(error, reads).kind.exit_code(), expected, "{line}");
        };
        check(Error::truncated(2, 1), Reads::Archive, 1);
        check(Error::truncated(2, 1), Reads::Checkpoint, 3);
        check(Error::corrupt("x"), Reads::Archive, 1);
        check(Error::corrupt("x"), Reads::Checkpoint, 3);
        check(Error::corrupt("x"), Reads::Foreign, 3);
        check(Error::unsupported("x"), Reads::Foreign, 3);
        check(Error::unsupported("x"), Reads::Archive, 3);
        check(Error::io(Path::new("x"), io::ErrorKind::NotFound.into()), Reads::Archive, 4);
        check(Error::invalid("is already there"), Reads::Archive, 5);
        check(Error::invalid("no tensor of that name"), Reads::Archive, 2);
        check(Error::invalid("something else"), Reads::Archive, 3);
    }

    #[test]
    fn full_disk_says_how_much() {
        let full = || Failure::io(Path::new("x"), io::ErrorKind::StorageFull.into());
        let hint = full().with_space_needed(|| Some(13_644_312)).hint.unwrap_or_default();
        assert!(hint.contains("13,644,312 bytes"), "{hint}");
        assert!(full().with_space_needed(|| None).hint.is_some());
    }
}
