//! Sends load to a model server on this machine and checks its answers, for `bench/servers`.
//!
//! ```text
//! flotilla-load PLAN.json
//! ```
//!
//! It runs the plan's warm-up, prints its report, and waits for a line on standard input, so that whoever measures the server can
//! read its counters; then it runs the plan and prints a second report. A wrong answer is an error, as is none. The plan is
//! described in `plan.rs`; it is bounded in rate, number, size and time, and goes to loopback addresses alone.
//!
//! The end-to-end tests have a load of their own (`e2e/src/load.rs`), for services of a cluster: it has Poisson arrivals and many
//! users, and costs several times as much a request.

mod answer;
mod connection;
mod plan;
mod report;
mod run;

use std::{error::Error, io::Write as _, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let [_, file] = std::env::args().collect::<Vec<_>>().try_into().map_err(|_| "usage: flotilla-load PLAN.json")?;
    let file: plan::File = serde_json::from_slice(&std::fs::read(file)?)?;
    let plan = Arc::new(file.load()?);
    // One thread, so that it can be kept to one core and costs the same on every machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if !plan.warm_up.is_zero() {
        say(&runtime.block_on(run::run(&plan, plan.warm_up)))?;
        std::io::stdin().read_line(&mut String::new())?;
    }
    say(&runtime.block_on(run::run(&plan, plan.time)))
}

fn say(report: &report::Report) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
