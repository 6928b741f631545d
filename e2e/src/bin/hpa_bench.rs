//! `make bench-hpa` and `make bench-steps`: Flotilla and a `HorizontalPodAutoscaler` on CPU on the local cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use flotilla_e2e::contender::{Contender, Device, Scaler, Share};
use flotilla_e2e::steps::seconds;
use flotilla_e2e::study::{self, Run};
use flotilla_e2e::table::Table;
use flotilla_e2e::{Outcome, peers, plot, with_namespace};

/// Percent of the requested CPU at which the `HorizontalPodAutoscaler` holds the fleet.
const TARGET: i32 = 70;

/// The servers of the study had four times as much as they requested; here so little that 600 requests last as long as there.
const SHARE: Share = Share { requested: 15, limit: 60 };

/// Measures Flotilla beside a HorizontalPodAutoscaler on CPU. The cluster of `kind/up` is needed, with the charts and
/// `kind/metrics`.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// A folder for the raw results
    #[arg(long, global = true, default_value = "hpa-bench")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum What {
    /// The study's step 8: 600 requests by 30 users, from 2 to at most 6 replicas
    Study {
        /// The picture
        #[arg(long)]
        svg: Option<PathBuf>,
        /// Leave out the runs with each one's default window, which take ten minutes longer
        #[arg(long)]
        short: bool,
    },
    /// Steps of load
    Steps {
        /// How many for Flotilla
        #[arg(long, default_value_t = 20)]
        steps: usize,
        /// How many for the HorizontalPodAutoscaler, at the same time
        #[arg(long, default_value_t = 5)]
        peer_steps: usize,
    },
}

#[tokio::main]
async fn main() -> Outcome {
    let args = Args::parse();
    fs::create_dir_all(&args.out)?;
    match args.what {
        What::Study { svg, short } => {
            let mut runs = Vec::new();
            for window in [Some(Duration::from_secs(30)), None].into_iter().take(if short { 1 } else { 2 }) {
                for scaler in [Scaler::Cpu { target: TARGET }, Scaler::Flotilla] {
                    runs.push(run(scaler, window).await?);
                    write(&args.out, &runs)?;
                }
            }
            print(&runs);
            if let Some(svg) = svg {
                fs::write(svg, plot::draw(&runs)?)?;
            }
        }
        What::Steps { steps, peer_steps } => {
            let measured = peers::measure(steps, peer_steps).await?;
            fs::write(args.out.join("steps.json"), serde_json::to_string(&measured)?)?;
            measured.print();
        }
    }
    Ok(())
}

async fn run(scaler: Scaler, window: Option<Duration>) -> Outcome<Run> {
    let who = if scaler == Scaler::Flotilla { "Flotilla" } else { "HPA on CPU" };
    let name = match window {
        Some(window) => format!("{who}, window {} s", window.as_secs()),
        None => format!("{who}, default window"),
    };
    let contender = Contender { name: "study", scaler, device: Device::Processor(SHARE), replicas: (2, 6), window };
    let mut run = None;
    with_namespace(async |workspace| {
        run = Some(study::run(workspace, &contender, &name).await?);
        Ok(())
    })
    .await?;
    run.ok_or_else(|| "the run left no result".into())
}

/// Everything as JSON, and the time lines and requests as CSV.
fn write(folder: &Path, runs: &[Run]) -> Outcome {
    fs::write(folder.join("study.json"), serde_json::to_string(runs)?)?;
    let mut replicas = csv::Writer::from_path(folder.join("study-replicas.csv"))?;
    let mut requests = csv::Writer::from_path(folder.join("study-requests.csv"))?;
    replicas.write_record(["run", "seconds", "ordered", "ready", "cpu_percent"])?;
    requests.write_record(["run", "sent_seconds", "latency_seconds", "error"])?;
    for run in runs {
        for point in &run.timeline.points {
            replicas.serialize((&run.name, point.at, point.ordered, point.ready, point.cpu_percent))?;
        }
        for request in &run.requests {
            requests.serialize((&run.name, request.sent, request.latency, &request.error))?;
        }
    }
    replicas.flush()?;
    requests.flush()?;
    Ok(())
}

fn print(runs: &[Run]) {
    let mut table = Table::new(
        format!("{} requests by {} users, CPU-limited servers, 2 to 6 replicas", study::REQUESTS, study::USERS),
        &[
            "",
            "first decision",
            "decisions",
            "as many answer",
            "all answered",
            "p50",
            "p95",
            "failed",
            "back at 2 after",
        ],
    );
    for run in runs {
        let decisions = run.timeline.decisions();
        let told: Vec<_> = decisions.iter().map(|(at, from, to)| format!("{from}→{to} {at:.0} s")).collect();
        table.row([
            run.name.clone(),
            seconds(run.timeline.first_increase()),
            told.join(", "),
            seconds(run.timeline.full()),
            seconds(Some(run.load_seconds)),
            seconds(run.latency(0.5)),
            seconds(run.latency(0.95)),
            run.failed().to_string(),
            seconds(run.back()),
        ]);
    }
    table.print();
    let mut told = Table::new("Events", &["", "at", "event"]);
    for run in runs {
        for event in &run.events {
            told.row([run.name.clone(), seconds(Some(event.at)), event.text.clone()]);
        }
    }
    told.print();
}
