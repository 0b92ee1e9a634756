//! Files beside the weights: goes in a name, comes out bytes, text or parsed JSON, or `None` where there is no such
//! file. Next in the flow: settings.rs.

use std::collections::HashMap;
use std::path::Path;

use netweight_container::{Context, Error, InputFile, Result};
use serde::de::DeserializeOwned;

/// Side files are read whole; this bounds them. The largest known tokenizer.json has 33 MB.
const MAX_SIDE_FILE_BYTES: u64 = 256 << 20;

/// Where `tokenizer.json`, `config.json` and the like come from: a folder, an archive, or a map in tests.
pub trait SideFiles {
    /// Bytes of the file of that name; `None` where there is none.
    ///
    /// # Errors
    /// `InvalidArgument` where it is absurdly large; `Io`.
    fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>>;
}

/// A folder.
impl SideFiles for Path {
    fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let input = InputFile::open(&path)?;
        if input.len_bytes() > MAX_SIDE_FILE_BYTES {
            return Err(Error::invalid("too large for a side file").in_file(&path));
        }
        input.read_vec(0, input.len_bytes()).map(Some)
    }
}

impl<F: SideFiles + ?Sized> SideFiles for &F {
    fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        (**self).side_file(name)
    }
}

/// Names and contents.
impl SideFiles for HashMap<String, Vec<u8>> {
    fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.get(name).cloned())
    }
}

/// A side file as UTF-8.
pub(crate) fn text_file(files: &dyn SideFiles, name: &str) -> Result<Option<String>> {
    let Some(bytes) = files.side_file(name)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| Error::corrupt("not UTF-8")).in_file(Path::new(name))?;
    Ok(Some(text))
}

/// A side file as JSON.
pub(crate) fn json_file<T: DeserializeOwned>(files: &dyn SideFiles, name: &str) -> Result<Option<T>> {
    let Some(bytes) = files.side_file(name)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(error.to_string()));
    parsed.map(Some).in_file(Path::new(name))
}
