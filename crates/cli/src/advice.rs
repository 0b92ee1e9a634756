//! What to do next, for each thing that the crates below refuse. The texts on the left are theirs; the tests of
//! this crate provoke the commonest of them, so that a change of words there does not go unnoticed.

use std::io;

use crate::failure::Kind;

const ELSEWHERE: &str = "choose another destination with -o";
const NAMES: &str = "`netweight inspect --all` lists names and shapes";

/// Part of the text of an `InvalidArgument`, what it means, and what to do next. The first match counts.
const ARGUMENTS: [(&str, Kind, &str); 27] = [
    ("already there", Kind::Exists, "pass --force to replace it, or choose another destination with -o"),
    (
        "its refinement is not here",
        Kind::Input,
        "fetch the archive's *.refinement files too, or pass --tuned for the tuned values, in bf16",
    ),
    ("its refinement is needed", Kind::Usage, "rename that file: --keep-exact needs its name"),
    ("would be lost", Kind::Exists, "move that file away, or choose another destination with -o"),
    ("will not be replaced", Kind::Exists, ELSEWHERE),
    ("stands where", Kind::Exists, "move it away, or choose another destination with -o"),
    ("another run is writing", Kind::Exists, "wait for that run to end, or choose another destination with -o"),
    ("stand in the way", Kind::Exists, "remove the files named .*.netweight-tmp-* there"),
    ("not a GGUF file", Kind::Input, "name a .gguf file, or a folder of compressed-tensors"),
    (
        "nothing is to be imported",
        Kind::Input,
        "`netweight run` takes it as it is; `netweight restore` gives its original back",
    ),
    ("choose another type", Kind::Usage, "bf16 and f32 hold such values: --dtype of import, --weights of export"),
    ("not a folder with config.json", Kind::Input, "name the folder of a checkpoint, or of an archive"),
    ("git-lfs pointer", Kind::Input, "run `git lfs pull` where it was cloned, then try again"),
    (
        "archive already",
        Kind::Input,
        "`netweight restore` gives its original back; `netweight inspect` shows what is in it",
    ),
    (
        "not a netweight archive",
        Kind::Input,
        "`netweight compress` makes an archive of a checkpoint; `netweight inspect` reads both",
    ),
    (
        "no .safetensors file",
        Kind::Input,
        "name a .safetensors file or the folder that holds them; convert other formats first",
    ),
    ("names the shard", Kind::Input, "a shard is missing: finish the download, then try again"),
    ("was changed while", Kind::Input, "run it again when nothing writes to that file"),
    ("symbolic link", Kind::Input, "remove the link, then try again"),
    ("not UTF-8", Kind::Input, "rename that file"),
    ("is both what is read", Kind::Usage, ELSEWHERE),
    ("lies inside", Kind::Usage, ELSEWHERE),
    ("not a name", Kind::Usage, ELSEWHERE),
    ("no tensor of that name", Kind::Usage, NAMES),
    ("several shards", Kind::Usage, "name the archive shard that is meant instead of the folder"),
    ("rows", Kind::Usage, NAMES),
    ("threads", Kind::Usage, "ask for fewer with --threads"),
];

/// What an `InvalidArgument` means, and what to do next.
pub fn argument_advice(what: &str) -> (Kind, &'static str) {
    let found = ARGUMENTS.iter().find(|row| what.contains(row.0));
    found.map_or((Kind::Input, "name a .safetensors file, a folder with such files, or an archive of those"), |row| {
        (row.1, row.2)
    })
}

/// Kind of the operating system's refusal, and what to do next.
const REFUSALS: [(io::ErrorKind, &str); 9] = [
    (io::ErrorKind::NotFound, "check the path"),
    (io::ErrorKind::PermissionDenied, "check who may read and write there"),
    (io::ErrorKind::ReadOnlyFilesystem, ELSEWHERE),
    (io::ErrorKind::StorageFull, "free some or choose another destination with -o, then run the same command again"),
    (io::ErrorKind::QuotaExceeded, "free some or choose another destination with -o, then run the same command again"),
    (
        io::ErrorKind::FileTooLarge,
        "the file system, or `ulimit -f`, limits the size of files: raise the limit or choose another destination with -o",
    ),
    (io::ErrorKind::NotADirectory, "check the path"),
    (
        io::ErrorKind::CrossesDevices,
        "let source folder and destination be on file systems of their own, or choose another destination",
    ),
    (io::ErrorKind::InvalidFilename, "choose a shorter or simpler name"),
];

/// What the operating system said, and what to do next.
pub fn io_advice(source: &io::Error) -> (String, &'static str) {
    let kind = source.kind();
    let message = match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space left on this disk".to_owned(),
        _ => source.to_string(),
    };
    let hint = REFUSALS
        .iter()
        .find(|row| row.0 == kind)
        .map_or("check the disk, then run the same command again", |row| row.1);
    (message, hint)
}
