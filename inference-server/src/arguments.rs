//! The command line and the environment; nothing else in the server reads either.

use std::{
    io::{IsTerminal as _, stderr},
    path::PathBuf,
};

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Serves one model over `KServe` v2.
#[derive(Debug, Parser)]
#[command(name = "flotilla-server", version)]
pub struct Arguments {
    /// The settings file (JSON).
    #[arg(long)]
    pub settings: PathBuf,
    /// ONNX Runtime's library, an absolute path; needed for an ONNX model.
    #[arg(long, env = "FLOTILLA_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// The form of the log on standard error.
    #[arg(long, env = "FLOTILLA_LOG_FORMAT", default_value = "json", value_parser = ["json", "text"])]
    pub log_format: String,
    /// What is logged, as a tracing filter.
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", default_value = "info,ort=warn")]
    pub log_level: String,
    /// Where the reason of a failed start goes.
    #[arg(long, env = "FLOTILLA_TERMINATION_LOG", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
}

impl Arguments {
    /// Begins to log; called once.
    pub fn start_log(&self) {
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(&self.log_level))
            .with_ansi(stderr().is_terminal())
            .with_writer(stderr);
        if self.log_format == "json" { log.json().init() } else { log.init() }
    }
}
