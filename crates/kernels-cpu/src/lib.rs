//! CPU kernels: linear layers over tiles, attention, norms, and the pool of threads that runs them.
#![deny(unsafe_code)]
