//! `flotilla explain`: why a service has as many replicas as it has, and what would change it.

#[cfg(test)]
mod tests;
mod text;
mod when;

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, ResourceExt as _};
use serde::Serialize;

use super::cluster::{Answer, Cluster, ClusterArguments, Unreachable};
use super::output::Format;
use super::{CliError, print};
use crate::api::condition::READY;
use crate::api::scaling::{PAUSED, ScalingMode};
use crate::api::status::ScalingStatus;
use crate::api::{InferenceService, InferenceServiceSpec};
use crate::explain::{Explanation, VERSION};

/// How often a watch looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Says why a service has as many replicas as it has, and what would change it
///
/// What was measured, what a replica can take, how many replicas each part of the law asked for and which one won, what
/// holds the number, at which numbers another would be decided, every replica's measurement, and the last ten changes.
///
/// The numbers are those of the last decision, from the operator that leads; where it can't be asked, those of the
/// service's status, and why. Rights needed: get on the InferenceService; get on the operator's Lease and on pods/proxy in
/// its namespace (the chart's Role RELEASE-operator-explain).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Why does the service photos have as many replicas as it has?
  kubectl flotilla explain photos

  # For a program
  kubectl flotilla explain photos -n production -o json

  # Every new decision in a line, until Ctrl-C
  kubectl flotilla explain photos --watch

  # An operator that was installed by another name
  kubectl flotilla explain photos --operator-namespace inference --operator-lease fleet-operator")]
pub(super) struct Arguments {
    /// The InferenceService
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    format: super::output::FormatArguments,
    /// Goes on with a line for each decision that differs from the one before
    #[arg(long, short)]
    watch: bool,
}

/// All that is told, as JSON tells it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    version: u32,
    namespace: String,
    name: String,
    mode: &'static str,
    paused: bool,
    /// Operator or Status.
    source: &'static str,
    /// The operator's pod that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<String>,
    /// Why the operator was not asked, or did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
    /// The last decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Explanation>,
    /// What the status says: rounded, and up to 30 s old.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ScalingStatus>,
    /// The condition Ready, where it is not True.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<Obstacle>,
    #[serde(skip)]
    bounds: (i32, i32),
    #[serde(skip)]
    target: i32,
}

/// Why a service is not ready.
#[derive(Debug, Serialize)]
struct Obstacle {
    reason: String,
    message: String,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let mut last = None;
    loop {
        let report = report(&cluster, &arguments.service).await?;
        let outcome = report.outcome();
        if last.as_ref() != Some(&outcome) {
            let text = match arguments.format.format() {
                Format::Text if last.is_some() => text::line(&report, Timestamp::now()),
                Format::Text => text::text(&report, Timestamp::now()),
                structured => structured.write(&report)?,
            };
            print(&text)?;
            last = Some(outcome);
        }
        if !arguments.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The service, and the last decision about it.
pub(super) async fn report(cluster: &Cluster, name: &str) -> Result<Report, CliError> {
    let services: Api<InferenceService> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let service = services.get(name).await.map_err(|error| no_service(&error, &cluster.namespace, name))?;
    let told = cluster.ask::<Explanation>(&format!("debug/scaling/{}/{name}", cluster.namespace)).await;
    Ok(Report::new(&service, told))
}

fn no_service(error: &kube::Error, namespace: &str, name: &str) -> CliError {
    let message = match error {
        kube::Error::Api(status) if status.code == 404 && status.reason == "NotFound" => {
            format!("there is no InferenceService {name} in the namespace {namespace}; see kubectl get infsvc -A")
        }
        kube::Error::Api(status) if status.code == 404 => {
            "this cluster does not know InferenceServices; install the chart flotilla-crds".to_owned()
        }
        kube::Error::Api(status) => {
            format!("the InferenceService {namespace}/{name} can't be read: {}", status.message)
        }
        error => format!("the API server does not answer: {}", super::cluster::chain(error)),
    };
    CliError::Cluster(message)
}

impl Report {
    fn new(service: &InferenceService, told: Result<Answer<Explanation>, Unreachable>) -> Self {
        let InferenceServiceSpec { scaling, .. } = &service.spec;
        let status = service.status.clone().unwrap_or_default();
        let obstacle =
            |condition: &Condition| Obstacle { reason: condition.reason.clone(), message: condition.message.clone() };
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        let (operator, decision, fallback) = match told {
            Ok(answer) => (Some(answer.pod), Some(answer.body), None),
            Err(error) => (None, None, Some(error.to_string())),
        };
        Self {
            version: VERSION,
            namespace: service.namespace().unwrap_or_default(),
            name: service.name_any(),
            mode: scaling.mode.as_str(),
            paused: scaling.paused,
            source: if decision.is_some() { "Operator" } else { "Status" },
            operator,
            fallback,
            decision,
            status: status.scaling,
            obstacle: ready.filter(|ready| ready.status != "True").map(obstacle),
            bounds: (scaling.min_replicas, scaling.max_replicas),
            target: scaling.target_queue_time_milliseconds,
        }
    }

    /// Why decisions are only shown, in a word; none where they are acted on.
    fn shown_only(&self) -> Option<&'static str> {
        let is_followed = self.mode != ScalingMode::QueueTime.as_str();
        if self.paused { Some(PAUSED) } else { is_followed.then_some(self.mode) }
    }

    /// What makes a report news to a watch.
    fn outcome(&self) -> (String, String) {
        let of_status = || {
            let status = self.status.as_ref();
            let replicas = status.map_or_else(|| "-".to_owned(), |status| status.desired_replicas.to_string());
            (replicas, status.map_or_else(String::new, |status| status.reason.clone()))
        };
        self.decision
            .as_ref()
            .map_or_else(of_status, |decision| (decision.replicas.to_string(), decision.reason.clone()))
    }
}
