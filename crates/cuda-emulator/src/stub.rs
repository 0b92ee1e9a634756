//! Libraries that stand in for NVIDIA's: what the driver's side of `netweight-kernels-cuda` loads in tests. A test runs
//! a process with these folders in `LD_LIBRARY_PATH`; `cpp/stub/cuda.cpp` lists what else its environment can say.

use std::path::PathBuf;

/// A library that stands in for one of NVIDIA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stub {
    /// libcuda.so.1, whose GPUs are emulated.
    Driver,
    /// libcublas.so.12, for that driver.
    Blas,
    /// libcuda.so.1 as of another age: most functions are missing.
    IncompleteDriver,
}

impl Stub {
    /// The folder it is in, alone. `None` where none was built: everywhere but on Linux.
    pub fn folder(self) -> Option<PathBuf> {
        let name = match self {
            Stub::Driver => "driver",
            Stub::Blas => "blas",
            Stub::IncompleteDriver => "incomplete",
        };
        Some(PathBuf::from(env!("NETWEIGHT_STUBS")).join(name)).filter(|folder| folder.exists())
    }
}
