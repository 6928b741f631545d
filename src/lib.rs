//! Flotilla: an operator that runs fleets of inference servers and scales them on the time that requests wait.
//!
//! Imports flow one way: `api <- service <- scaling, placement <- resources <- controller`.

pub mod api;
pub mod scaling;
pub mod scrape;
pub mod service;

#[cfg(test)]
mod fixtures;
