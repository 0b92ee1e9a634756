//! How much memory a model takes: loaded and run in a process that does nothing else. Next in the flow: run.rs.

use std::process::{Command, Stdio};

use netweight_engine::Store;
use serde::{Deserialize, Serialize};

use crate::model::contender::Contender;
use crate::model::options::{ModelOptions, Wanted};
use crate::options::Error;

/// Memory of a process that has loaded a model and run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Most bytes that were resident at any time, mapped files included; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Bytes resident at the end.
    pub resident_bytes: Option<u64>,
}

/// Loads the first of the layouts and activations of `options` in this process, reads all prompts, decodes the largest batch, and says
/// how much memory that took. The figures are those of the whole process, which should do nothing else.
///
/// # Errors
/// Those of the engine.
pub fn measure_memory(options: &ModelOptions) -> Result<MemoryUse, Error> {
    let options = options.sound();
    options.check()?;
    let store = Store::open(&options.model).map_err(netweight_engine::Error::from)?;
    let wanted = Wanted { layout: options.layouts.first().copied(), precision: options.activations.first().copied() };
    let mut contender = Contender::load(&store, &options, wanted)?;
    contender.fill(options.prompt)?;
    contender.timed_decode(options.max_batch(), options.generate)?;
    Ok(MemoryUse { peak_bytes: from_status("VmHWM"), resident_bytes: from_status("VmRSS") })
}

/// [`measure_memory`] in a process of its own, by way of `netweight bench`; `None` without a program.
pub(crate) fn in_process(options: &ModelOptions, wanted: Wanted) -> Result<Option<MemoryUse>, Error> {
    let Some(program) = &options.program else { return Ok(None) };
    let mut command = Command::new(program);
    command.args(["--json", "bench", "--device", "cpu", "--memory"]).stdin(Stdio::null()).stderr(Stdio::null());
    let counts = [
        ("--threads", options.max_threads()),
        ("--prompt", options.prompt),
        ("--generate", options.generate),
        ("--batch", options.max_batch()),
    ];
    for (flag, count) in counts.into_iter().chain(options.context.map(|context| ("--context", context))) {
        command.args([flag, &count.to_string()]);
    }
    command.args(wanted.layout.iter().flat_map(|layout| ["--layout", layout.name()]));
    command.args(wanted.precision.iter().flat_map(|precision| ["--activations", precision.name()]));
    let output = command.arg("--").arg(&options.model).output();
    let output = output.map_err(|error| Error::MemoryUse(format!("{}: {error}", program.display())))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found: Result<MemoryUse, serde_json::Error> = serde_json::from_str(&said);
    match found {
        Ok(found) if output.status.success() => Ok(Some(found)),
        _ => Err(Error::MemoryUse(format!("{}, and says {}", output.status, said.trim()))),
    }
}

/// A figure of this process, in bytes.
fn from_status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn status_is_read() {
        let (peak, resident) = (super::from_status("VmHWM").unwrap(), super::from_status("VmRSS").unwrap());
        assert!(peak > 1 << 20 && resident > 1 << 20, "{peak} {resident}");
        assert_eq!(super::from_status("Nothing"), None);
    }
}
