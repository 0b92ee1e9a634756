//! Resident layouts: how a weight matrix lies in memory while a model runs.
#![deny(unsafe_code)]
