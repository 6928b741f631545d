//! The binary: arguments in, exit code and termination message out.

use std::{io, process::ExitCode, thread};

use clap::Parser as _;
use flotilla_server::{
    arguments::Arguments,
    failure::{Failure, Reason},
    lifecycle::{Listeners, run},
};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

/// A request makes a hundred small allocations, and ends on another thread than it began on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One of so many cores is for the network. Requests that are handed from thread to thread cost more than they gain: with two
/// network threads on two cores, one costs half as much again.
const CORES_PER_NETWORK_THREAD: usize = 4;

fn main() -> ExitCode {
    let threads = thread::available_parallelism().map_or(1, usize::from) / CORES_PER_NETWORK_THREAD;
    match Builder::new_multi_thread().worker_threads(threads.max(1)).enable_all().build() {
        Ok(runtime) => runtime.block_on(start()),
        Err(error) => {
            eprintln!("the system gives no threads: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> ExitCode {
    // Before anything else: a signal that arrives while the model loads must not kill the process.
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let arguments = Arguments::parse();
    let _log = arguments.start_log();
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
