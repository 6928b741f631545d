//! The log on standard error, the same for every program of this package.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

/// Begins to log; called once. `format` is `json` or `text`, `level` a tracing filter.
pub fn start(format: &str, level: &str) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr);
    if format == "json" { log.json().init() } else { log.init() }
}
