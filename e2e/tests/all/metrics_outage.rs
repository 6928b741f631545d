//! No data is no reason to act: the scrape is cut by a packet filter in the pods' own networks while they are under load.

use std::time::{Duration, Instant};

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::node::Filter;
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, throughout, timer, until, with_namespace};
use serde_json::json;

const START: Duration = Duration::from_secs(90);
const METRICS_PORT: u16 = 8002;
const WINDOW: Duration = Duration::from_secs(10);

async fn ordered(workspace: &Workspace) -> Outcome<i32> {
    Ok(workspace.deployment("blind", "cpu").await?.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

async fn holds(workspace: &Workspace, what: &str, replicas: i32, lasting: Duration) -> Outcome {
    throughout(what, lasting, async || {
        let now = ordered(workspace).await?;
        Ok(if now == replicas { Ok(()) } else { Err(format!("{now} replicas instead of {replicas}")) })
    })
    .await
}

#[tokio::test]
async fn replicas_hold_while_the_scrape_is_cut() -> Outcome {
    with_namespace(async |workspace| {
        let spec = json!({"scaling": {"maxReplicas": 3, "scaleDownStabilizationSeconds": WINDOW.as_secs()}});
        workspace.apply(&timer("blind", &spec)).await?;
        workspace.ready("blind", START).await?;
        let target = Target::of(workspace, "blind").await?;
        let load = Load::start(
            &target,
            Plan {
                rate: 230.0,
                connections: Connections::AtOnce(1_000),
                lasting: Duration::from_mins(5),
                arrivals: Arrivals::Poisson,
            },
        )?;
        until("more than one replica is needed and answers", START, async || {
            let status = workspace.services().get("blind").await?.status.unwrap_or_default();
            let steady = status.ready_replicas >= 2 && status.ready_replicas == status.replicas;
            Ok(if steady { Look::Break(()) } else { Look::Continue(format!("{}", status.ready_replicas)) })
        })
        .await?;
        workspace.condition("blind", "MetricsAvailable", "True", None, Duration::from_secs(40)).await?;
        let mut filters = Vec::new();
        for pod in workspace.pods("blind").await? {
            filters.push(Filter::set(&workspace.cluster, &pod, METRICS_PORT).await?);
        }
        let cut = Instant::now();
        let (missing, told) =
            workspace.condition("blind", "MetricsAvailable", "False", None, Duration::from_secs(30)).await?;
        let replicas = ordered(workspace).await?;
        ensure!(replicas >= 2, "only {replicas} replicas are left");
        holds(workspace, "blind under load", replicas, WINDOW * 2).await?;
        // Without load the law would give replicas back after the window, if it took no data for no load.
        let report = load.stop().await?;
        holds(workspace, "blind without load", replicas, WINDOW * 3).await?;
        let blind = cut.elapsed();
        for filter in filters {
            filter.remove().await?;
        }
        let (_, back) = workspace.condition("blind", "MetricsAvailable", "True", None, Duration::from_mins(1)).await?;
        workspace.replicas("blind", 1, WINDOW + Duration::from_mins(1)).await?;
        let mut table = Table::new("The scrape of every replica is cut under load", &["what", "measured"]);
        table.row([format!("MetricsAvailable=False ({}) after", missing.reason), seconds(told)]);
        table.row([format!("{replicas} replicas held, the last {:?} without load", WINDOW * 3), seconds(blind)]);
        table.row(["MetricsAvailable=True again after".to_owned(), seconds(back)]);
        table.row(["requests while it lasted".to_owned(), report.answers.len().to_string()]);
        table.print();
        Ok(())
    })
    .await
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
