//! Config-driven decoders: a family is a declaration, the forward pass is one function.
#![forbid(unsafe_code)]
