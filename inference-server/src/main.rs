//! The binary: settings and environment in, exit code and termination message out.

use std::{env, path::PathBuf, process::ExitCode};

use clap::Parser;
use flotilla_server::{
    device::onnx::LIBRARY_VARIABLE,
    failure::{Failure, Reason},
    lifecycle::{Listeners, run},
    settings::Settings,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Serves one model over KServe v2.
#[derive(Debug, Parser)]
#[command(name = "flotilla-server", version)]
struct Arguments {
    /// The settings file (JSON).
    #[arg(long)]
    settings: PathBuf,
    /// The form of the log on standard error.
    #[arg(long, env = "FLOTILLA_LOG_FORMAT", default_value = "json", value_parser = ["json", "text"])]
    log_format: String,
    /// What is logged, as a tracing filter.
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", default_value = "info,ort=warn")]
    log_level: String,
    /// Where the reason of a failed start goes.
    #[arg(long, env = "FLOTILLA_TERMINATION_LOG", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Before anything else: a signal that arrives while the model loads must not kill the process.
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let arguments = Arguments::parse();
    let log =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(&arguments.log_level)).with_writer(std::io::stderr);
    if arguments.log_format == "json" {
        log.json().init();
    } else {
        log.init();
    }
    match serve(&arguments, signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(reason = ?failure.reason, fix = failure.fix, "{}", failure.message);
            failure.write_to(&arguments.termination_log);
            ExitCode::FAILURE
        }
    }
}

type Signals = (std::io::Result<Signal>, std::io::Result<Signal>);

async fn serve(arguments: &Arguments, signals: Signals) -> Result<(), Failure> {
    let no_signals =
        |error: std::io::Error| Failure::new(Reason::Internal, format!("no signal handler: {error}"), "report this");
    let (mut terminate, mut interrupt) = (signals.0.map_err(no_signals)?, signals.1.map_err(no_signals)?);
    let settings = Settings::load(&arguments.settings).map_err(|error| {
        Failure::new(
            Reason::SettingsInvalid,
            error.to_string(),
            "correct the settings file; its fields are in the server's README",
        )
    })?;
    let listeners = Listeners::bind(&settings).await?;
    let library = env::var_os(LIBRARY_VARIABLE).map(PathBuf::from);
    run(settings, library, listeners, async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    })
    .await
}
