//! Replicas follow the load. The timer device makes the needed number known beforehand.

use std::time::{Duration, Instant};

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, program, throughout, timer, until, with_namespace};
use serde_json::{Value, json};

const START: Duration = Duration::from_secs(90);
/// The timer device: seconds for each image of a batch, and for the batch.
const ALPHA: f64 = 0.005;
const TAU0: f64 = 0.010;
/// The load, in images per second.
const RATE: f64 = 340.0;
/// The fewest replicas that keep the wait within the target of 20 ms; the test computes it from the three above.
const NEEDED: i32 = 3;
const WINDOW: Duration = Duration::from_secs(30);

/// How long a request waits for a replica at a rate, in seconds: while a batch executes the next one forms, so an execution
/// takes `t = ALPHA * rate * t + TAU0`, and a request that comes at any time of it waits for half of it.
fn wait(rate: f64) -> f64 {
    if rate * ALPHA < 1.0 { TAU0 / (1.0 - rate * ALPHA) / 2.0 } else { f64::INFINITY }
}

/// Replicas that the Deployment orders.
async fn ordered(workspace: &Workspace, name: &str) -> Outcome<i32> {
    Ok(workspace.deployment(name, "cpu").await?.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

#[tokio::test]
async fn replicas_follow_a_step_of_load_up_and_down() -> Outcome {
    let fewest = (1..100).find(|&replicas| wait(RATE / f64::from(replicas)) <= 0.020);
    ensure!(fewest == Some(NEEDED), "{fewest:?} replicas are needed for {RATE}/s, not {NEEDED}");

    with_namespace(async |workspace| {
        let scaling = json!({"scaling": {"maxReplicas": 6, "scaleDownStabilizationSeconds": WINDOW.as_secs()}});
        workspace.apply(&timer("steps", &scaling)).await?;
        workspace.ready("steps", START).await?;
        let target = Target::of(workspace, "steps").await?;
        // Idle first, as a service at night.
        workspace.replicas("steps", 1, START).await?;
        throughout("idle, nothing is ordered", Duration::from_secs(5), async || {
            let replicas = ordered(workspace, "steps").await?;
            Ok(if replicas == 1 { Ok(()) } else { Err(format!("{replicas} replicas")) })
        })
        .await?;

        let plan = Plan {
            rate: RATE,
            connections: Connections::AtOnce(3_000),
            lasting: Duration::from_mins(5),
            arrivals: Arrivals::Poisson,
        };
        let load = Load::start(&target, plan)?;
        let mut table = Table::new(
            format!(
                "A step from 0 to {RATE} images/s; {NEEDED} replicas are needed, since requests wait {:.0} ms with {} and {:.0} ms with {NEEDED}",
                wait(RATE / f64::from(NEEDED - 1)) * 1e3,
                NEEDED - 1,
                wait(RATE / f64::from(NEEDED)) * 1e3
            ),
            &["event", "after", "limit"],
        );
        let limit = Duration::from_secs(10);
        let (first, decided) = until("the first decision", limit, async || {
            let replicas = ordered(workspace, "steps").await?;
            Ok(if replicas > 1 { Look::Break(replicas) } else { Look::Continue("still 1 replica".to_owned()) })
        })
        .await?;
        table.row([format!("first decision: {first} replicas"), seconds(decided), "10.0 s".to_owned()]);
        until("the needed replicas answer", Duration::from_mins(1), async || {
            let ready = workspace.services().get("steps").await?.status.unwrap_or_default().ready_replicas;
            Ok(if ready >= NEEDED { Look::Break(()) } else { Look::Continue(format!("{ready}")) })
        })
        .await?;
        let reached = load.started.elapsed();
        table.row([format!("{NEEDED} replicas answer"), seconds(reached), "60.0 s".to_owned()]);
        // The backlog of the first seconds may cost one more for a time; from then on the number is the needed one.
        let mut most = NEEDED;
        let limit = WINDOW + Duration::from_mins(1);
        until("the number settles at what is needed", limit, async || {
            let replicas = ordered(workspace, "steps").await?;
            most = most.max(replicas);
            Ok(if replicas == NEEDED { Look::Break(()) } else { Look::Continue(format!("{replicas} replicas")) })
        })
        .await?;
        let settled = load.started.elapsed();
        table.row([format!("settled at {NEEDED}, at most {most}"), seconds(settled), String::new()]);
        throughout("under steady load", Duration::from_secs(30), async || {
            let replicas = ordered(workspace, "steps").await?;
            Ok(if replicas == NEEDED { Ok(()) } else { Err(format!("{replicas} replicas")) })
        })
        .await?;
        explained(workspace, "steps").await?;
        let steady = load.started.elapsed();
        let gone = Instant::now();
        let report = load.stop().await?;
        workspace.replicas("steps", 1, WINDOW + Duration::from_mins(1)).await?;
        table.row(["load gone: back at 1 replica".to_owned(), seconds(gone.elapsed()), "90.0 s".to_owned()]);
        ensure!(gone.elapsed() >= WINDOW, "replicas were given back before the window of {WINDOW:?} was over");
        let early = report.answers.iter().filter(|answer| answer.outcome.is_err() && answer.due < reached).count();
        table.row([
            format!("requests; refused while too few: {early}"),
            report.answers.len().to_string(),
            String::new(),
        ]);
        let settling = reached + Duration::from_secs(20);
        let late: Vec<_> =
            report.answers.iter().filter(|answer| answer.outcome.is_err() && answer.due > settling).take(3).collect();
        ensure!(late.is_empty(), "requests failed although there were enough replicas: {late:#?}");
        for quantile in [0.5, 0.99] {
            let latency = report.quantile(quantile, settling, steady);
            table.row([format!("p{:.0} in the steady state", quantile * 100.0), seconds(latency), String::new()]);
        }
        table.print();
        Ok(())
    })
    .await
}

/// What the command line tells of the last decision is what the status says, and fits itself.
async fn explained(workspace: &Workspace, name: &str) -> Outcome {
    // The status follows at most half a minute later, while only what was measured moves.
    let (told, _) = until("explain tells what the status says", Duration::from_mins(1), async || {
        let told = program::flotilla(&[
            "explain",
            name,
            "-n",
            &workspace.namespace,
            "--context",
            &workspace.cluster.context,
            "-o",
            "json",
        ])
        .await?;
        let told: Value = serde_json::from_str(&told)?;
        let (decision, status) = (&told["decision"], &told["status"]);
        let agree = decision["replicas"] == status["desiredReplicas"] && decision["reason"] == status["reason"];
        Ok(if agree { Look::Break(told) } else { Look::Continue(format!("{decision} {status} {}", told["fallback"])) })
    })
    .await?;
    let decision = &told["decision"];
    ensure!(told["source"] == "Operator", "the operator was not asked: {}", told["fallback"]);
    ensure!(
        decision["pods"].as_array().is_some_and(|pods| pods.len() >= usize::try_from(NEEDED).unwrap_or(0)),
        "{told}"
    );
    let number = |path: &str| decision.pointer(path).and_then(Value::as_f64);
    let (arrivals, above) = (number("/inputs/arrivals"), number("/changes/more/arrivalsAbove"));
    ensure!(arrivals <= above && arrivals.is_some(), "no more are ordered at {arrivals:?}, told for above {above:?}");
    Ok(())
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
