//! How long layers took on GPUs that were measured: in memory, and in a file of the user's cache. Next in the flow:
//! choose.rs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::runtime::Properties;
use netweight_kernels_cuda::{Device, Layout};
use serde::{Deserialize, Serialize};

use super::choose::{BUCKETS, LEAST_GEMM_FROM, Seconds};

/// What such a file begins with.
const KIND: &str = "netweight times on GPUs, 2";
/// A file that is larger is not ours.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// GPUs, and shapes of each, that are kept: the newest.
const MAX_KEPT: usize = 256;

/// All that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    kind: String,
    gpus: Vec<KnownGpu>,
}

/// Times on one GPU, with one driver, of one netweight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KnownGpu {
    gpu: String,
    driver: [u32; 2],
    netweight: String,
    shapes: Vec<ShapeTimes>,
}

/// Times of one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShapeTimes {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Seconds for each of `BUCKETS`, by the layout's name; none where the shape cannot be had in it.
    pub seconds: BTreeMap<String, Option<[f64; BUCKETS.len()]>>,
    /// The fastest layout with many tokens, as fused kernel and by way of the vendor's GEMM; none where that was not
    /// measured.
    pub many: Option<Vec<ManyTokens>>,
}

/// Times with many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManyTokens {
    /// Tokens.
    pub n_tokens: usize,
    /// Seconds of the fused kernel.
    pub fused: f64,
    /// Seconds of decoding and the vendor's GEMM.
    pub vendor: f64,
}

impl ShapeTimes {
    fn is_of(&self, shape: Shape) -> bool {
        (self.rows, self.cols) == (shape.rows, shape.cols)
    }

    /// Times of each layout that there is, if this has all that one may ask for.
    fn seconds(&self) -> Option<Seconds> {
        let is_time = |seconds: f64| seconds.is_finite() && seconds > 0.0;
        let mut found = Vec::with_capacity(Layout::ALL.len());
        for layout in Layout::ALL {
            match self.seconds.get(layout.name())? {
                Some(seconds) if seconds.iter().copied().all(is_time) => found.push((layout, *seconds)),
                Some(_) => return None,
                None => (),
            }
        }
        found.iter().any(|(layout, _)| *layout == Layout::Rows).then_some(found)
    }
}

impl Known {
    /// Nothing.
    pub fn nothing() -> Known {
        Known { kind: KIND.to_owned(), gpus: Vec::new() }
    }

    /// What a file holds: nothing where there is none, or it is broken or somebody else's.
    pub fn read(path: &Path) -> Known {
        let is_small = std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() <= MAX_FILE_BYTES);
        let text = if is_small { std::fs::read(path).ok() } else { None };
        let known: Option<Known> = text.and_then(|text| serde_json::from_slice(&text).ok());
        known.filter(|known| known.kind == KIND).unwrap_or_else(Known::nothing)
    }

    /// Replaces a file, and makes its folder. Where that cannot be, nothing happens: the next process measures again.
    pub fn write(&self, path: &Path) {
        let (Some(folder), Ok(text)) = (path.parent(), serde_json::to_vec_pretty(self)) else { return };
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&partial, text))
            .and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
    }

    /// Times of a shape on a GPU with each layout.
    pub fn seconds(&self, device: &Device, shape: Shape) -> Option<Seconds> {
        self.find(device.properties(), shape)?.seconds()
    }

    /// Tokens from which on the vendor's GEMM is faster with a shape, where that was measured.
    pub fn gemm_from(&self, device: &Device, shape: Shape) -> Option<usize> {
        let many = self.find(device.properties(), shape)?.many.as_ref()?;
        let last_fused = many.iter().filter(|times| times.fused <= times.vendor).map(|times| times.n_tokens).max();
        Some(last_fused.map_or(0, |n_tokens| n_tokens.saturating_add(1)).max(LEAST_GEMM_FROM))
    }

    /// Notes times, in the place of what there was.
    pub fn note(&mut self, device: &Device, times: ShapeTimes) {
        let properties = device.properties();
        let idx = self.gpus.iter().position(|known| known.is_of(properties)).unwrap_or_else(|| {
            self.gpus.push(KnownGpu {
                gpu: properties.name.clone(),
                driver: properties.driver_version,
                netweight: env!("CARGO_PKG_VERSION").to_owned(),
                shapes: Vec::new(),
            });
            self.gpus.len() - 1
        });
        let shapes = &mut self.gpus[idx].shapes;
        shapes.retain(|known| (known.rows, known.cols) != (times.rows, times.cols));
        shapes.push(times);
        shapes.drain(..shapes.len().saturating_sub(MAX_KEPT));
        self.gpus.drain(..self.gpus.len().saturating_sub(MAX_KEPT));
    }

    fn find(&self, properties: &Properties, shape: Shape) -> Option<&ShapeTimes> {
        let gpu = self.gpus.iter().find(|known| known.is_of(properties))?;
        gpu.shapes.iter().find(|times| times.is_of(shape))
    }
}

impl KnownGpu {
    fn is_of(&self, properties: &Properties) -> bool {
        let (gpu, driver) = (&properties.name, properties.driver_version);
        self.gpu == *gpu && self.driver == driver && self.netweight == env!("CARGO_PKG_VERSION")
    }
}

/// Where the file is, if the user has a cache.
pub fn default_path() -> Option<PathBuf> {
    path_in(std::env::var_os("XDG_CACHE_HOME").map(Into::into), std::env::var_os("HOME").map(Into::into))
}

fn path_in(cache: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // A relative path is none, says the specification of those folders.
    let cache = cache.filter(|path| path.is_absolute());
    let home = home.filter(|path| path.is_absolute()).map(|path| path.join(".cache"));
    cache.or(home).map(|folder| folder.join("netweight").join("cuda-times.json"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use netweight_cuda_emulator::{Emulator, Options};

    use super::*;

    const SHAPE: Shape = Shape { rows: 64, cols: 32 };

    fn device() -> Device {
        Device::new(Arc::new(Emulator::new(Options::default())))
    }

    fn times(fill: f64, many: Option<Vec<ManyTokens>>) -> ShapeTimes {
        let seconds = Layout::ALL.into_iter().map(|layout| (layout.name().to_owned(), Some([fill; BUCKETS.len()])));
        ShapeTimes { rows: SHAPE.rows, cols: SHAPE.cols, seconds: seconds.collect(), many }
    }

    #[test]
    fn files_keep_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("times.json");
        let device = device();
        let mut known = Known::read(&path);
        assert_eq!(known, Known::nothing());
        known.note(&device, times(1.0, None));
        known.note(&device, times(2.0, Some(Vec::new())));
        known.write(&path);
        let again = Known::read(&path);
        assert_eq!(again, known);
        assert_eq!(again.seconds(&device, SHAPE).unwrap(), Layout::ALL.map(|layout| (layout, [2.0; BUCKETS.len()])));
        assert_eq!(again.seconds(&device, Shape { rows: 65, cols: 32 }), None);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn broken_and_foreign_files_are_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.json");
        let mut known = Known::nothing();
        known.note(&device(), times(1.0, None));
        let text = serde_json::to_string(&known).unwrap();
        for broken in ["", "{", "[]", "{\"kind\": 1}", &text.replace(KIND, "another"), &text[..text.len() / 2]] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(Known::read(&path), Known::nothing(), "{broken}");
        }
        known.write(&path);
        assert_eq!(Known::read(&path), known);
        assert_eq!(Known::read(folder.path()), Known::nothing());
        known.write(Path::new("/dev/null/times.json")); // no error, no panic
    }

    /// Numbers that are no times count as not measured; another driver or netweight, too.
    #[test]
    fn what_is_not_trusted() {
        let device = device();
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut known = Known::nothing();
            known.note(&device, times(seconds, None));
            assert_eq!(known.seconds(&device, SHAPE), None, "{seconds}");
        }
        let mut known = Known::nothing();
        known.note(&device, times(1.0, None));
        let mut other = known.clone();
        other.gpus[0].driver = [12, 9];
        assert_eq!(other.seconds(&device, SHAPE), None);
        let mut other = known.clone();
        other.gpus[0].netweight = "0.0.1".to_owned();
        assert_eq!(other.seconds(&device, SHAPE), None);
        let mut lacking = known;
        lacking.gpus[0].shapes[0].seconds.remove("bf16");
        assert_eq!(lacking.seconds(&device, SHAPE), None);
    }

    #[test]
    fn where_the_vendors_gemm_takes_over() {
        let device = device();
        let check = |many: &[(usize, f64, f64)], expected: usize| {
            let many = many.iter().map(|&(n_tokens, fused, vendor)| ManyTokens { n_tokens, fused, vendor });
            let mut known = Known::nothing();
            known.note(&device, times(1.0, Some(many.collect())));
            assert_eq!(known.gemm_from(&device, SHAPE), Some(expected));
        };
        check(&[], 65);
        check(&[(64, 2.0, 1.0), (128, 2.0, 1.0)], 65);
        check(&[(64, 1.0, 2.0), (128, 2.0, 1.0)], 65);
        check(&[(64, 1.0, 2.0), (128, 1.0, 2.0), (256, 2.0, 1.0)], 129);
        check(&[(64, 1.0, 2.0), (128, 2.0, 1.0), (256, 1.0, 2.0)], 257);
        check(&[(usize::MAX, 1.0, 2.0)], usize::MAX);
        assert_eq!(Known::nothing().gemm_from(&device, SHAPE), None);
    }

    #[test]
    fn the_file_is_in_the_users_cache() {
        let check = |cache: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            assert_eq!(path_in(cache.map(Into::into), home.map(Into::into)), expected.map(Into::into));
        };
        check(Some("/c"), Some("/h"), Some("/c/netweight/cuda-times.json"));
        check(Some("c"), Some("/h"), Some("/h/.cache/netweight/cuda-times.json"));
        check(None, Some("/h"), Some("/h/.cache/netweight/cuda-times.json"));
        check(Some(""), None, None);
    }
}
