//! The command line tool by the name that kubectl looks for.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla::cli::main()
}
