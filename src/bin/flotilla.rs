//! The command line tool. `kubectl flotilla` is the same program by its second name.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla::cli::main()
}
