//! Starts the watches that fill the caches and the collector that scrapes the servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cached::{CachedAutoscaler, CachedPod};
use super::context::Context;
use super::index::{Index, ServiceName};
use super::lease::Fence;
use super::watch::{OwnedWatch, Watch};
use super::{Scope, TRIGGER_QUEUE, trim};
use crate::api::labels;
use crate::explain::Records;
use crate::resources::Environment;
use crate::scrape::{Clock, Collector};
use crate::service::Defaults;
use crate::telemetry::metrics::ControllerMetrics;

/// What [`start`] needs besides the client.
pub struct Options {
    /// Namespaces to look at; empty: all.
    pub namespaces: Vec<String>,
    /// What services default to.
    pub defaults: Defaults,
    /// Where the operator runs.
    pub environment: Environment,
    /// The operator's pod, for Events.
    pub instance: String,
    /// How often servers are scraped.
    pub scrape_interval: Duration,
    /// Whether pods may be patched, to choose which of them go at a scale-down.
    pub deletion_cost: bool,
    /// The clock that the collector and the scaling law share.
    pub clock: Clock,
    /// Where decisions are kept for whoever asks why.
    pub records: Arc<Records>,
}

/// Kinds of owned objects.
fn owned_kinds() -> [ApiResource; 6] {
    [
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
    ]
}

/// Starts watches and collector on `tasks`; they end when it is dropped.
///
/// # Errors
/// The API server does not answer.
pub async fn start(
    client: Client,
    options: Options,
    metrics: ControllerMetrics,
    collector: Arc<Collector>,
    fence: Arc<Fence>,
    tasks: &mut JoinSet<()>,
) -> kube::Result<(Arc<Context>, Vec<Scope>)> {
    let namespaces: Vec<Option<String>> =
        if options.namespaces.is_empty() { vec![None] } else { options.namespaces.into_iter().map(Some).collect() };
    let count = namespaces.len();
    let owned = Arc::new(Index::new(count * owned_kinds().len()));
    let pods = Arc::new(Index::new(count));
    let autoscalers = Arc::new(Index::new(count));
    let nodes = watch_nodes(&client, tasks).await?;
    let mut scopes = Vec::with_capacity(count);
    let mut senders: HashMap<Option<String>, mpsc::Sender<ServiceName>> = HashMap::new();
    for namespace in namespaces {
        let (sender, triggers) = mpsc::channel(TRIGGER_QUEUE);
        for resource in owned_kinds() {
            let api: Api<DynamicObject> = match &namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let watch = OwnedWatch {
                api,
                resource,
                namespace: namespace.clone(),
                index: Arc::clone(&owned),
                triggers: sender.clone(),
            };
            tasks.spawn(watch.run());
        }
        tasks.spawn(
            Watch::<Pod, CachedPod> {
                api: scoped(&client, namespace.as_deref()),
                config: watcher::Config::default(),
                kind: "Pod",
                namespace: namespace.clone(),
                keep: trim::pod,
                index: Arc::clone(&pods),
                triggers: Some(sender.clone()),
            }
            .run(),
        );
        tasks.spawn(
            Watch::<HorizontalPodAutoscaler, CachedAutoscaler> {
                api: scoped(&client, namespace.as_deref()),
                config: watcher::Config::default(),
                kind: "HorizontalPodAutoscaler",
                namespace: namespace.clone(),
                keep: trim::autoscaler,
                index: Arc::clone(&autoscalers),
                triggers: None,
            }
            .run(),
        );
        senders.insert(namespace.clone(), sender);
        scopes.push(Scope { namespace, triggers });
    }
    tasks.spawn(forward_measurements(Arc::clone(&collector), senders));
    let context = Context {
        recorder: Recorder::new(
            client.clone(),
            Reporter { controller: labels::MANAGER.to_owned(), instance: Some(options.instance) },
        ),
        client,
        owned,
        pods,
        nodes,
        autoscalers,
        collector,
        records: options.records,
        metrics,
        fence,
        defaults: options.defaults,
        environment: options.environment,
        scrape_interval: options.scrape_interval,
        deletion_cost: options.deletion_cost,
        clock: options.clock,
        memories: Mutex::default(),
        snapshot: Mutex::default(),
        unsettled: Mutex::default(),
    };
    Ok((Arc::new(context), scopes))
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches nodes, unless the operator may not: a namespaced installation can do without.
async fn watch_nodes(client: &Client, tasks: &mut JoinSet<()>) -> kube::Result<Option<Arc<Index<Node>>>> {
    let api: Api<Node> = Api::all(client.clone());
    match api.list(&ListParams::default().limit(1)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::info!("nodes can't be read: free GPUs are not known, the scheduler decides alone");
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let index = Arc::new(Index::new(1));
    let watch = Watch::<Node, Node> {
        api,
        config: watcher::Config::default(),
        kind: "Node",
        namespace: None,
        keep: trim::node,
        index: Arc::clone(&index),
        triggers: None,
    };
    tasks.spawn(watch.run());
    Ok(Some(index))
}

/// Looks at a service again as soon as its servers were measured.
async fn forward_measurements(collector: Arc<Collector>, senders: HashMap<Option<String>, mpsc::Sender<ServiceName>>) {
    let mut updates = std::pin::pin!(collector.updates());
    while let Some(key) = updates.next().await {
        let Some(sender) = senders.get(&Some(key.namespace.clone())).or_else(|| senders.get(&None)) else { continue };
        let _ = sender.send(ServiceName { namespace: key.namespace, name: key.name }).await;
    }
}
