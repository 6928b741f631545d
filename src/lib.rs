//! Flotilla: an operator that runs fleets of inference servers and scales them on the time that requests wait.
//!
//! Imports flow one way: `api <- service <- scaling, placement <- resources <- controller`.

// Helpers of tests take `json!` literals by value.
#![cfg_attr(test, allow(clippy::needless_pass_by_value))]

pub mod api;
pub mod cli;
pub mod controller;
pub mod explain;
pub mod operator;
pub mod placement;
pub mod resources;
pub mod scaler;
pub mod scaling;
pub mod scrape;
pub mod service;
pub mod simulate;
pub mod telemetry;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tidy;
