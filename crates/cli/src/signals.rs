//! Ctrl-C and its kin: say what is left behind and that a rerun goes on, tidy up, end with 128 + signal.
//!
//! Destinations appear only when they are whole, so ending at any moment is safe; this file is about good manners.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use netweight_engine::Interrupt;

#[cfg(unix)]
use crate::ui::Ui;

/// What an interrupted verb leaves behind.
#[cfg_attr(not(unix), allow(dead_code))]
struct Leftovers {
    /// For people.
    advice: String,
    /// A folder that must not stay.
    scratch: Option<PathBuf>,
    /// Where a single file was to appear; its unfinished copy must not stay.
    file: Option<PathBuf>,
}

static LEFTOVERS: Mutex<Option<Leftovers>> = Mutex::new(None);

/// Says what an interruption from now on leaves behind: a verb that writes `destination`.
pub fn writing(destination: &Path, is_folder: bool) {
    let destination_text = destination.display();
    let advice = if is_folder {
        format!(
            "{destination_text} is as it was; finished files are kept beside it, and the same command goes on from there"
        )
    } else {
        format!("{destination_text} is as it was; run the same command again")
    };
    set(Leftovers { advice, scratch: None, file: (!is_folder).then(|| destination.to_path_buf()) });
}

/// Says that an interruption from now on is to remove `scratch`.
pub fn scratch(scratch: &Path) {
    set(Leftovers { scratch: Some(scratch.to_path_buf()), ..nothing_left() });
}

/// The same, of a verb that leaves something else, of which `advice` tells.
pub fn scratch_and(scratch: &Path, advice: String) {
    set(Leftovers { advice, scratch: Some(scratch.to_path_buf()), file: None });
}

/// Of a verb that writes no file.
fn nothing_left() -> Leftovers {
    Leftovers { advice: "nothing is left behind".to_owned(), scratch: None, file: None }
}

/// What the next Ctrl-C sets instead of ending the program.
static INTERRUPT: Mutex<Option<Interrupt>> = Mutex::new(None);

/// From now on Ctrl-C sets `interrupt`; where that is set already, nobody has cleared it, and Ctrl-C ends the program.
pub fn interrupting(interrupt: &Interrupt) {
    *INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupt.clone());
}

fn set(leftovers: Leftovers) {
    *LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner) = Some(leftovers);
}

/// Catches the signals that end a program, and turns the one for files beyond the size limit into an error.
///
/// # Errors
/// Where the system does not allow it.
#[cfg(unix)]
pub fn install(ui: Ui) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use std::sync::{Arc, atomic::AtomicBool};

    const SIGXFSZ: i32 = 25; // Linux and macOS alike.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let interrupt = INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner);
            match interrupt.as_ref().filter(|interrupt| signal == SIGINT && !interrupt.is_set()) {
                Some(interrupt) => interrupt.set(),
                None => interrupted(ui, signal),
            }
        }
    })?;
    Ok(())
}

#[cfg(unix)]
fn interrupted(ui: Ui, signal: i32) {
    let leftovers = LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(nothing_left);
    if let Some(scratch) = &leftovers.scratch {
        let _ = std::fs::remove_dir_all(scratch);
    }
    if let Some(file) = &leftovers.file {
        remove_unfinished(file);
    }
    ui.interrupted(&leftovers.advice, 128 + signal);
    std::process::exit(128 + signal);
}

/// Removes this process's unfinished copies of `file`, which stand beside it.
#[cfg(unix)]
fn remove_unfinished(file: &Path) {
    let Some(name) = file.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = format!(".{name}.netweight-tmp-{}-", std::process::id());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
