//! `make bench-fleet`: an operator with 1,000 services of 10 replicas each, against kube-apiserver and etcd alone.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use flotilla_e2e::apiserver::ApiServer;
use flotilla_e2e::fleet::bench::{self, Fleet, Plan};
use flotilla_e2e::fleet::{collect, report, server};
use flotilla_e2e::{Outcome, ensure};
use tokio::runtime::Builder;

/// Measures what an operator takes for a fleet of thousands of replicas, and whether it keeps up.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Measures; run it by e2e/private-network
    Measure(Measure),
    /// Measures collector and law alone, without Kubernetes; run it by e2e/private-network
    Collect(Collect),
    /// Answers for all pods of the fleet
    Serve,
}

#[derive(clap::Args)]
struct Measure {
    /// How many services
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Replicas of each service
    #[arg(long, default_value_t = 10)]
    replicas: usize,
    /// Seconds between two scrapes of a pod; several are measured one after the other
    #[arg(long = "interval", default_values_t = [5, 2])]
    intervals: Vec<u64>,
    /// Seconds that each is measured for
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// An operator's program; several are measured in turn. Without it, it is compiled as this program was
    #[arg(long = "operator")]
    operators: Vec<PathBuf>,
    /// Where etcd keeps its data: filled by a first run, taken over by those after it
    #[arg(long)]
    data: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Collect {
    /// How many services
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Replicas of each service
    #[arg(long, default_value_t = 10)]
    replicas: usize,
    /// Seconds between two scrapes of a pod
    #[arg(long, default_value_t = 5)]
    interval: u64,
    /// Seconds that it is measured for
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

fn main() -> Outcome {
    let action = Args::parse().action;
    let mut runtime = match action {
        // As many threads as the operator has.
        Action::Collect(_) => Builder::new_multi_thread(),
        // This program shares the machine with what it measures.
        Action::Measure(_) | Action::Serve => Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    match action {
        Action::Collect(args) => runtime.block_on(collect(args)),
        Action::Measure(args) => runtime.block_on(measure(args)),
        Action::Serve => runtime.block_on(server::serve()),
    }
}

#[allow(clippy::print_stdout, reason = "the results are for people and programs to read")]
async fn collect(args: Collect) -> Outcome {
    let fleet = Fleet::start().await?;
    let [interval, lasting] = [args.interval, args.seconds].map(Duration::from_secs);
    let collected = collect::measure(fleet.pid()?, args.services, args.replicas, interval, lasting).await?;
    println!("{}", serde_json::to_string_pretty(&collected)?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the results are for people and programs to read")]
async fn measure(args: Measure) -> Outcome {
    let mut programs = args.operators;
    if programs.is_empty() {
        programs.push(flotilla_e2e::program::compiled("flotilla-operator").await?);
    }
    let name = |program: &PathBuf| program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plan = Plan {
        services: args.services,
        replicas: args.replicas,
        intervals: args.intervals.into_iter().map(Duration::from_secs).collect(),
        operators: programs.into_iter().map(|program| (name(&program), program)).collect(),
        lasting: Duration::from_secs(args.seconds),
    };
    let fleet = Fleet::start().await?;
    let server = ApiServer::start_on(args.data.as_deref()).await?;
    let pods = bench::fill(&server, &plan).await?;
    let measured = bench::measure(&server, &fleet, &plan, pods).await?;
    report::print(&format!("{} services, {pods} replicas", plan.services), &measured);
    println!("\n{}", serde_json::to_string(&measured)?);
    ensure!(measured.iter().all(|one| one.writes.is_empty()), "an operator wrote although nothing changed");
    Ok(())
}
