//! The fetcher: arguments in, a model entry on disk, exit code and termination message out.

use std::{fs, process::ExitCode};

use clap::Parser as _;
use flotilla_server::{
    failure::{Failure, Reason},
    fetch::{Error, arguments::Arguments, fetch, receipt::Receipt},
    log,
};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _log = log::start(&arguments.log_format, &arguments.log_level);
    match run(&arguments).await {
        Ok(receipt) => {
            // A note for `kubectl describe pod`; nothing depends on it.
            let _ = fs::write(&arguments.termination_log, fetched(&receipt));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::error!(reason = ?failure.reason, fix = failure.fix, "{}", failure.message);
            failure.write_to(&arguments.termination_log);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Receipt, Failure> {
    let request = arguments.request().map_err(Error::into_failure)?;
    let internal = |error| Failure::new(Reason::Internal, format!("signals can't be handled: {error}"), "report this");
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    let stopped = || {
        Failure::new(Reason::Internal, "stopped by a signal", "run it again: what was fetched is kept and continued")
    };
    tokio::select! {
        fetched = fetch(&request) => fetched.map_err(Error::into_failure),
        _ = terminate.recv() => Err(stopped()),
        _ = interrupt.recv() => Err(stopped()),
    }
}

fn fetched(receipt: &Receipt) -> String {
    let message = format!("{} files, {} bytes, sha256 {}", receipt.files, receipt.bytes, receipt.sha256);
    serde_json::json!({"version": 1, "reason": "Fetched", "message": message, "fix": ""}).to_string()
}
