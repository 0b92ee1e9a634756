//! Runs models: loads them, tokenizes, applies chat templates, samples, generates.
#![forbid(unsafe_code)]
