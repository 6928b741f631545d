//! `make bench-scale`: many `InferenceServices` against kube-apiserver and etcd alone.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use flotilla_e2e::apiserver::ApiServer;
use flotilla_e2e::{Outcome, ensure, scale_bench};

/// Measures how the operator copes with many services, where no cluster slows it down.
#[derive(Parser)]
struct Args {
    /// How many services
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Seconds for which no write may come once all is done
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// The operator's program; without it, it is compiled as this program was
    #[arg(long)]
    operator: Option<PathBuf>,
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the results are for people and programs to read")]
async fn main() -> Outcome {
    let args = Args::parse();
    let server = ApiServer::start().await?;
    let operator = match &args.operator {
        Some(program) => server.operator_of(program, "bench", &[]).await?,
        None => server.operator("bench").await?,
    };
    let measured = scale_bench::measure(&server, &operator, args.services, Duration::from_secs(args.rest)).await?;
    measured.print();
    println!("\n{}", serde_json::to_string(&measured)?);
    operator.stop().await?;
    ensure!(measured.writes_at_rest.is_empty(), "the operator wrote although nothing changed");
    Ok(())
}
