//! The verbs of `flotilla`, which is also the kubectl plugin: `kubectl flotilla VERB` runs `kubectl-flotilla VERB`.

mod cluster;
mod explain;
mod jobs;
mod load;
mod output;
mod plot;
mod scenario;
mod simulate;
mod sweep;
mod top;
mod words;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Tools for inference fleets that scale on the time requests wait.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Plays a load against Flotilla's law and those of other autoscalers, request by request.
    Simulate(Box<simulate::Arguments>),
    /// Gives every other autoscaler its best target on every load, and writes the whole table.
    Sweep(Box<sweep::Arguments>),
    Explain(Box<explain::Arguments>),
    Top(Box<top::Arguments>),
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The load can't be had.
    #[error(transparent)]
    Load(#[from] load::LoadError),
    /// The numbers make no scenario.
    #[error("{0}")]
    Scenario(String),
    /// The numbers make no policy.
    #[error(transparent)]
    Policy(#[from] crate::scaling::PolicyError),
    /// The cluster can't be reached, or does not have what was asked for.
    #[error("{0}")]
    Cluster(String),
    /// A file can't be written.
    #[error("{path}: can't be written: {message}")]
    Write {
        /// Which.
        path: String,
        /// Why.
        message: String,
    },
}

/// Runs the program with the process's arguments. Results go to standard output, progress and errors to standard error.
pub fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    // As a plugin of kubectl it is called by its other name, and its help shows what was typed.
    let name = if name.ends_with("kubectl-flotilla") { "kubectl flotilla" } else { "flotilla" };
    let matches = Arguments::command().bin_name(name).name(name).get_matches();
    let result = match Arguments::from_arg_matches(&matches).map(|arguments| arguments.verb) {
        Ok(Verb::Simulate(arguments)) => simulate::run(&arguments),
        Ok(Verb::Sweep(arguments)) => sweep::run(&arguments),
        Ok(Verb::Explain(arguments)) => wait_for(explain::run(&arguments)),
        Ok(Verb::Top(arguments)) => wait_for(top::run(&arguments)),
        Err(error) => error.exit(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "{name}: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Runs a verb that talks to a cluster.
fn wait_for(verb: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::Cluster(format!("no network: {error}")))?.block_on(verb)
}

fn write_file(path: &std::path::Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &std::path::Path, error: &dyn std::error::Error) -> CliError {
    CliError::Write { path: path.display().to_string(), message: error.to_string() }
}

/// Writes to standard output; a reader that went away is no error.
fn print(text: &str) -> Result<(), CliError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Write { path: "standard output".to_owned(), message: error.to_string() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_each_other() {
        Arguments::command().debug_assert();
        let parse = |words: &[&str]| Arguments::try_parse_from(words).map(drop).map_err(|error| error.kind());
        assert_eq!(parse(&["flotilla", "explain", "photos", "-n", "a", "-o", "json", "-w"]), Ok(()));
        assert_eq!(parse(&["flotilla", "top", "-A", "--sort-by", "queue"]), Ok(()));
        assert_eq!(parse(&["flotilla", "top", "pods", "photos"]), Ok(()));
        for wrong in [&["flotilla", "top", "pods"][..], &["flotilla", "top", "-A", "-n", "a"], &["flotilla", "explain"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
