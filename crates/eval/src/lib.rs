//! Perplexity, and how far one model's predictions lie from another's.
#![forbid(unsafe_code)]
