//! Operators with a fleet of thousands of replicas: what they take, and whether they keep up.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use flotilla::api::InferenceService;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use tokio::process::{Child, Command};

use super::report::{Measured, Moment};
use super::{MOST_PODS, objects, server};
use crate::apiserver::{ApiServer, Operator};
use crate::process::{memory, processor_time};
use crate::scale_bench::{complete, difference, settled};
use crate::{Look, Outcome, many, until};

const LIMIT: Duration = Duration::from_mins(15);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many services.
    pub services: usize,
    /// Replicas of each.
    pub replicas: usize,
    /// Intervals of scraping, one after the other.
    pub intervals: Vec<Duration>,
    /// Operators' programs by name, each at every interval.
    pub operators: Vec<(String, PathBuf)>,
    /// For how long each.
    pub lasting: Duration,
}

/// The fleet's process; it ends when this is dropped.
pub struct Fleet {
    process: Child,
}

impl Fleet {
    /// Its process id.
    ///
    /// # Errors
    /// It has ended.
    pub fn pid(&self) -> Outcome<u32> {
        Ok(self.process.id().ok_or("the fleet's process has ended")?)
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not start, or this is not the network of `e2e/private-network`.
    pub async fn start() -> Outcome<Self> {
        let local = std::net::TcpListener::bind((super::address(MOST_PODS - 1), 0));
        ensure!(local.is_ok(), "the pods' addresses are not this machine: run it by e2e/private-network");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn()?;
        until("the fleet answers", Duration::from_secs(10), async || {
            Ok(server::asked().await.map_or_else(|error| Look::Continue(error.to_string()), |_| Look::Break(())))
        })
        .await?;
        Ok(Self { process })
    }
}

/// Makes services and pods, unless an earlier run left them, and says how many pods there are.
///
/// # Errors
/// A service did not get its objects in time, or something does not answer.
pub async fn fill(server: &ApiServer, plan: &Plan) -> Outcome<usize> {
    let wanted = plan.services * plan.replicas;
    ensure!(wanted <= MOST_PODS, "{wanted} pods are more than there are addresses: {MOST_PODS}");
    let present = Api::<Pod>::all(server.client.clone()).list_metadata(&ListParams::default()).await?.items.len();
    if present > 0 {
        ensure!(present == wanted, "there are {present} pods of another run, {wanted} are wanted; take another --data");
        return Ok(present);
    }
    let nodes = objects::nodes(&server.client, wanted).await?;
    let (_, program) = plan.operators.first().ok_or("no operator is named")?;
    let operator = server.operator_of(program, "fill", &[]).await?;
    create_services(server, plan).await?;
    until("every service has all its objects and conditions", LIMIT, async || {
        let done = complete(&server.client).await?;
        Ok(if done >= plan.services { Look::Break(()) } else { Look::Continue(format!("{done} of {}", plan.services)) })
    })
    .await?;
    settled(server).await?;
    // Not running meanwhile: so many writes at once could leave no room for those of its lease.
    operator.stop().await?;
    objects::pods(&server.client, plan.replicas, nodes).await?;
    let operator = server.operator_of(program, "fill-pods", &[]).await?;
    until("every service is ready", LIMIT, async || {
        let services = Api::<InferenceService>::all(server.client.clone()).list(&ListParams::default()).await?.items;
        let is_ready = |service: &&InferenceService| {
            service.status.as_ref().is_some_and(|status| usize::try_from(status.ready_replicas) == Ok(plan.replicas))
        };
        let ready = services.iter().filter(is_ready).count();
        Ok(if ready >= plan.services {
            Look::Break(())
        } else {
            Look::Continue(format!("{ready} of {}", plan.services))
        })
    })
    .await?;
    settled(server).await?;
    operator.stop().await?;
    Ok(wanted)
}

async fn create_services(server: &ApiServer, plan: &Plan) -> Outcome {
    many::namespaces(server, "fleet").await?;
    many::create(server, "fleet", plan.services, |index| {
        let placement = if index % 2 == 0 { json!({"gpu": {}}) } else { json!({}) };
        // Room above, so that a law that misread the pages would write.
        let scaling = json!({"minReplicas": plan.replicas, "maxReplicas": plan.replicas * 2});
        json!({"placement": placement, "scaling": scaling, "service": {"type": "ClusterIP"}})
    })
    .await
}

/// Measures every operator at every interval.
///
/// # Errors
/// An operator does not come to rest, or something does not answer.
pub async fn measure(server: &ApiServer, fleet: &Fleet, plan: &Plan, pods: usize) -> Outcome<Vec<Measured>> {
    let mut all = Vec::new();
    for interval in &plan.intervals {
        for (name, program) in &plan.operators {
            let seconds = interval.as_secs().to_string();
            let operator = server.operator_of(program, name, &["--scrape-interval-seconds", &seconds]).await?;
            let mut measured = one(server, fleet, &operator, *interval, plan.lasting, pods).await?;
            measured.operator.clone_from(name);
            operator.stop().await?;
            all.push(measured);
        }
    }
    Ok(all)
}

async fn one(
    server: &ApiServer,
    fleet: &Fleet,
    operator: &Operator,
    interval: Duration,
    lasting: Duration,
    pods: usize,
) -> Outcome<Measured> {
    let before = server::asked().await?;
    let twice = u64::try_from(pods).unwrap_or(u64::MAX).saturating_mul(2);
    until("every pod was scraped twice", LIMIT, async || {
        let pages = server::asked().await?.since(&before).pages;
        Ok(if pages >= twice { Look::Break(()) } else { Look::Continue(format!("{pages} scrapes")) })
    })
    .await?;
    let writes = settled(server).await?;
    let pid = operator.pid().ok_or("the operator has ended")?;
    let moment = async || -> Outcome<Moment> {
        let [api_server, etcd] = server.pids()?.map(processor_time);
        let (api_server, etcd) = (api_server?, etcd?);
        let api = crate::process::ProcessorTime {
            user: api_server.user + etcd.user,
            system: api_server.system + etcd.system,
        };
        let fleet = fleet.pid()?;
        Ok(Moment {
            page: operator.page().await?,
            asked: server::asked().await?,
            processor: [processor_time(pid)?, processor_time(fleet)?, api],
        })
    };
    let (first, started) = (moment().await?, Instant::now());
    tokio::time::sleep(lasting).await;
    let (last, lasted) = (moment().await?, started.elapsed());
    let mut measured = Measured::between(&first, &last, interval, lasted, pods)?;
    measured.writes = difference(&writes, &server.writes().await?);
    (measured.resident, measured.peak_resident) = memory(pid)?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    measured.load = load.split(' ').next().unwrap_or_default().parse()?;
    Ok(measured)
}
