//! `netweight.json` (section 6): the files of an archive folder, and the rules for their paths.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::manifest::{check_format, deflate, format_of, inflate, not_null};
use crate::{Digest, Error, FileKind, Result};

/// Name of the folder manifest.
pub const FOLDER_MANIFEST_NAME: &str = "netweight.json";

/// Name of the file that says what was measured of a model. It speaks of all others, `netweight.json` among them, which
/// therefore does not list it.
pub const CARD_NAME: &str = "netweight-card.json";

/// What follows the name of an archive shard in the name of its refinement. No `.safetensors`: nobody is to load it.
pub const REFINEMENT_SUFFIX: &str = ".refinement";

/// A file that an archive rewrites is refused where its original is longer.
pub const MAX_REWRITTEN_BYTES: u64 = 100_000_000;

/// One file of the original folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderFile {
    /// Relative path with "/".
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size of the original in bytes.
    pub bytes: u64,
    /// SHA-256 of the original.
    pub sha256: Digest,
    /// For an index or a config: SHA-256 of the rewritten file, and the original's bytes.
    pub rewritten: Option<(Digest, Vec<u8>)>,
    /// For a shard with a refinement, which may be there or not: the file that comes out of both.
    pub refined: Option<Refined>,
}

/// The file that comes out of an archive shard and its refinement, where `bytes` and `sha256` of the shard are those of
/// tuned values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refined {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: Digest,
}

impl FolderFile {
    /// Relative path of its refinement, if it has one.
    pub fn refinement(&self) -> Option<String> {
        self.refined.map(|_| format!("{}{REFINEMENT_SUFFIX}", self.path))
    }
}

/// The manifest of an archive folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderManifest {
    /// Name and version of the program that wrote it.
    pub writer: String,
    /// Whether some shard has grids: the archive is of format 2.
    pub has_grids: bool,
    /// The files, sorted by path.
    pub files: Vec<FolderFile>,
}

#[derive(Deserialize)]
struct Version {
    format: u64,
}

#[derive(Serialize, Deserialize)]
struct Json {
    format: u64,
    writer: String,
    files: Vec<JsonFile>,
}

#[derive(Serialize, Deserialize)]
struct JsonFile {
    path: String,
    kind: FileKind,
    bytes: u64,
    sha256: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archived_sha256: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    refined: Option<Refined>,
}

impl FolderManifest {
    /// The bytes of `netweight.json`.
    ///
    /// # Errors
    /// `InvalidArgument` where a path breaks the rules.
    pub fn encode(&self) -> Result<Vec<u8>> {
        check_paths(self.files.iter().map(|file| file.path.as_str()))
            .map_err(|what| Error::invalid(what.to_string()))?;
        let files = self.files.iter().map(JsonFile::from).collect();
        let json = Json { format: u64::from(format_of(self.has_grids)), writer: self.writer.clone(), files };
        let mut text = serde_json::to_string_pretty(&json).map_err(|error| Error::invalid(error.to_string()))?;
        text.truncate(text.len() - "\n}".len());
        text.push_str(",\n  ");
        let digest = Digest::of(&[text.as_bytes()]);
        text.push_str(&tail(digest));
        Ok(text.into_bytes())
    }

    /// Checks and takes apart the bytes of `netweight.json`.
    ///
    /// # Errors
    /// `Unsupported` for a newer format; `Corrupt`, among others for a path that could leave the folder.
    pub fn decode(bytes: &[u8]) -> Result<FolderManifest> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::corrupt("netweight.json is not UTF-8"))?;
        if let Ok(Version { format }) = serde_json::from_str(text) {
            check_format(format)?;
        }
        let digest_start = text.rfind("\"digest\"").ok_or_else(|| Error::corrupt("netweight.json has no digest"))?;
        if text[digest_start..] != tail(Digest::of(&[&bytes[..digest_start]])) {
            return Err(Error::corrupt("netweight.json was changed (SHA-256)"));
        }
        let json: Json =
            serde_json::from_str(text).map_err(|error| Error::corrupt(format!("netweight.json: {error}")))?;
        check_paths(json.files.iter().map(|file| file.path.as_str()))?;
        if json.files.iter().any(|file| file.refined.is_some()) && json.format != u64::from(format_of(true)) {
            return Err(Error::corrupt("netweight.json: a refinement in an archive without grids"));
        }
        let files = json.files.into_iter().map(JsonFile::checked).collect::<Result<Vec<FolderFile>>>()?;
        let refinements: BTreeSet<String> = files.iter().filter_map(FolderFile::refinement).collect();
        if files.iter().any(|file| refinements.contains(&file.path)) {
            return Err(Error::corrupt("netweight.json: a refinement in the place of another file"));
        }
        Ok(FolderManifest { writer: json.writer, has_grids: json.format == u64::from(format_of(true)), files })
    }
}

fn tail(digest: Digest) -> String {
    format!("\"digest\": \"{digest}\"\n}}\n")
}

impl From<&FolderFile> for JsonFile {
    fn from(file: &FolderFile) -> JsonFile {
        JsonFile {
            path: file.path.clone(),
            kind: file.kind,
            bytes: file.bytes,
            sha256: file.sha256,
            archived_sha256: file.rewritten.as_ref().map(|(archived, _)| *archived),
            original: file.rewritten.as_ref().map(|(_, original)| STANDARD.encode(deflate(original))),
            refined: file.refined,
        }
    }
}

impl JsonFile {
    fn checked(self) -> Result<FolderFile> {
        let rewritten = match (self.kind, self.archived_sha256, self.original) {
            (FileKind::Index | FileKind::Config, Some(archived), Some(original)) => {
                if self.bytes > MAX_REWRITTEN_BYTES {
                    return Err(Error::corrupt("a rewritten file of more than 100 MB"));
                }
                let zlib = STANDARD.decode(original).map_err(|_| Error::corrupt("an original that is not base64"))?;
                let original = inflate(&zlib, self.bytes)?;
                if Digest::of(&[&original]) != self.sha256 {
                    return Err(Error::corrupt("an original that does not match its SHA-256"));
                }
                Some((archived, original))
            }
            (FileKind::Index | FileKind::Config, ..) => {
                return Err(Error::corrupt("a rewritten file without its original"));
            }
            _ => None,
        };
        if self.refined.is_some() && self.kind != FileKind::Shard {
            return Err(Error::corrupt("a refinement of what is no shard"));
        }
        let JsonFile { path, kind, bytes, sha256, refined, .. } = self;
        Ok(FolderFile { path, kind, bytes, sha256, rewritten, refined })
    }
}

fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut before: Option<&str> = None;
    let mut files = BTreeSet::new();
    for path in paths {
        check_relative_path(path)?;
        if path == FOLDER_MANIFEST_NAME || before.is_some_and(|before| before >= path) {
            return Err(Error::corrupt("netweight.json: paths are not sorted, or one stands there twice"));
        }
        let mut parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        if parents.any(|parent| files.contains(parent)) {
            return Err(Error::corrupt("netweight.json: one path is both a file and a folder"));
        }
        files.insert(path);
        before = Some(path);
    }
    Ok(())
}

/// Checks that a path from a file stays below the folder it is joined to.
///
/// # Errors
/// `Corrupt`.
pub fn check_relative_path(path: &str) -> Result<()> {
    let parts_hold = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let is_plain =
        !path.contains(['\\', '\0']) && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if parts_hold && is_plain {
        return Ok(());
    }
    Err(Error::corrupt(format!("{path:?} is not a path inside the folder")))
}

/// `root` joined with a relative path whose folders, where they exist, are folders and no symbolic links.
///
/// # Errors
/// `Corrupt` for a path that leaves the root; `InvalidArgument` for a symbolic link on the way; `Io`.
pub fn join_without_links(root: &Path, relative: &str) -> Result<PathBuf> {
    check_relative_path(relative)?;
    let mut path = root.to_path_buf();
    for part in relative.split('/') {
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(about) if about.file_type().is_symlink() => {
                return Err(Error::invalid("a symbolic link stands where a file is to be written").in_file(&path));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(&path, error)),
        }
    }
    Ok(path)
}
