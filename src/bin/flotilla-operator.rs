//! The operator. See `--help` for its settings; each is an environment variable too.

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match flotilla::operator::run(flotilla::operator::Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "the operator ended");
            ExitCode::FAILURE
        }
    }
}
