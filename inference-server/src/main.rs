//! The binary: arguments in, exit code and termination message out.

use std::{io, process::ExitCode};

use clap::Parser as _;
use flotilla_server::{
    arguments::Arguments,
    failure::{Failure, Reason},
    lifecycle::{Listeners, run},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    // Before anything else: a signal that arrives while the model loads must not kill the process.
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let arguments = Arguments::parse();
    arguments.start_log();
    match serve(&arguments, signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(reason = ?failure.reason, fix = failure.fix, "{}", failure.message);
            failure.write_to(&arguments.termination_log);
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &Arguments, signals: io::Result<(Signal, Signal)>) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = signals.map_err(|error| {
        Failure::new(
            Reason::Internal,
            format!("signals can't be handled: {error}"),
            "report this with the server's log",
        )
    })?;
    let settings = arguments.to_settings().map_err(|error| {
        let fix =
            "correct the flag, the environment variable or the settings file; the fields are in the server's README";
        Failure::new(Reason::SettingsInvalid, error.to_string(), fix)
    })?;
    let listeners = Listeners::bind(&settings).await?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(settings, arguments.ort_library.clone(), listeners, shutdown).await
}
