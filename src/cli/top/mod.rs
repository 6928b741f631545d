//! `flotilla top`: every service in a line, or every replica of one.

mod rows;

use std::io::Write as _;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use super::cluster::{Cluster, ClusterArguments};
use super::output::{Format, FormatArguments};
use super::{CliError, print};
use crate::api::InferenceService;
use crate::explain::{Explanation, Summaries, VERSION};
pub(super) use rows::pods_table;
use rows::{rows, services_table, sort, sort_pods};

/// Services that are read in one request.
const PAGE: u32 = 500;

/// Shows what every service takes and has, or every replica of one
///
/// Ready, ordered and most replicas, the time waited against the target, arrivals, what a replica can take, how much of
/// that is used, hardware, and the reason of the last decision. The numbers are the operator's own; where it can't be
/// asked, those of the services' status, which are rounded and up to 30 s old, and a line on standard error says so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # The services of the context's namespace
  kubectl flotilla top

  # Of all namespaces, those that wait longest first
  kubectl flotilla top -A --sort-by queue

  # The replicas of the service photos
  kubectl flotilla top pods photos")]
pub(super) struct Arguments {
    /// What is shown: services, or pods of one
    #[arg(value_enum, default_value = "services", value_name = "WHAT")]
    what: What,
    /// The InferenceService whose pods are shown
    #[arg(value_name = "SERVICE", required_if_eq("what", "pods"))]
    service: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Of all namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// By what the lines are sorted; numbers from the highest
    #[arg(long, value_enum, default_value = "name", value_name = "COLUMN")]
    sort_by: SortBy,
    #[command(flatten)]
    format: FormatArguments,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum What {
    /// Every service in a line.
    Services,
    /// Every replica of a service in a line.
    Pods,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum SortBy {
    /// By namespace and name.
    Name,
    /// By what arrives.
    Arrivals,
    /// By the time waited, in parts of the target; of pods, by the time waited.
    Queue,
    /// By the part of the capacity that is used; of pods, of the time that their device executes.
    Utilization,
    /// By ordered replicas; of pods, by name.
    Replicas,
    /// By age, the youngest first; of pods, by the measurement's.
    Age,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let text = match (arguments.what, &arguments.service) {
        (What::Pods, Some(service)) => pods(&cluster, service, arguments).await?,
        _ => services(&cluster, arguments).await?,
    };
    print(&text)
}

async fn services(cluster: &Cluster, arguments: &Arguments) -> Result<String, CliError> {
    let all = arguments.all_namespaces;
    let path = if all { "debug/scaling".to_owned() } else { format!("debug/scaling/{}", cluster.namespace) };
    let objects = list(cluster, all).await?;
    let told = match cluster.ask::<Summaries>(&path).await {
        Ok(answer) => answer.body.services,
        Err(error) => {
            writeln!(std::io::stderr(), "note: from the services' status, rounded and up to 30 s old: {error}").ok();
            Vec::new()
        }
    };
    let mut rows = rows(&objects, told);
    if let Some(name) = &arguments.service {
        rows.retain(|row| row.name == *name);
    }
    sort(&mut rows, arguments.sort_by);
    match arguments.format.format() {
        Format::Text if rows.is_empty() => {
            let place = if all { "any namespace".to_owned() } else { format!("the namespace {}", cluster.namespace) };
            writeln!(std::io::stderr(), "No InferenceServices found in {place}.").ok();
            Ok(String::new())
        }
        Format::Text => Ok(services_table(&rows, all, Timestamp::now())),
        format => format.write(&serde_json::json!({"version": VERSION, "services": rows})),
    }
}

async fn list(cluster: &Cluster, all: bool) -> Result<Vec<InferenceService>, CliError> {
    let api: Api<InferenceService> = if all {
        Api::all(cluster.client.clone())
    } else {
        Api::namespaced(cluster.client.clone(), &cluster.namespace)
    };
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 404 => CliError::Cluster(
                "this cluster does not know InferenceServices; install the chart flotilla-crds".to_owned(),
            ),
            kube::Error::Api(status) => {
                CliError::Cluster(format!("InferenceServices can't be listed: {}", status.message))
            }
            error => CliError::Cluster(format!("the API server does not answer: {}", super::cluster::chain(&error))),
        })?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

async fn pods(cluster: &Cluster, service: &str, arguments: &Arguments) -> Result<String, CliError> {
    let path = format!("debug/scaling/{}/{service}", cluster.namespace);
    let answer = cluster.ask::<Explanation>(&path).await.map_err(|error| CliError::Cluster(error.to_string()))?;
    let mut pods = answer.body.pods;
    sort_pods(&mut pods, arguments.sort_by);
    match arguments.format.format() {
        Format::Text => Ok(pods_table(&pods)),
        format => format.write(&serde_json::json!({"version": VERSION, "pods": pods})),
    }
}
