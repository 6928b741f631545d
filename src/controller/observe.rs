//! Observe step: what the caches know about a service. No requests.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::core::DynamicObject;

use super::context::Context;
use super::index::{ObjectKey, ServiceName};
use super::pods::PodView;
use super::scale;
use crate::api::labels;
use crate::api::status::PodFailure;
use crate::placement::Snapshot;
use crate::placement::product::Product;
use crate::resources::RolloutShape;
use crate::scaling::{Observation, Replica, ReplicaSample, Starting};
use crate::scrape::{METRICS_PORT, ServerInfo, ServiceKey, Target};
use crate::service::{ValidatedService, names};

/// What the caches know about a service.
pub struct Observed {
    /// The live Deployment of the pool and track.
    pub deployment: Option<DynamicObject>,
    /// The service's pods.
    pub pods: Vec<PodView>,
    /// The cluster's GPUs.
    pub snapshot: Arc<Snapshot>,
    /// A HorizontalPodAutoscaler that writes the same Deployment.
    pub rival: Option<String>,
}

impl Observed {
    /// Pods that answer.
    pub fn ready(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(|pod| !pod.gone && pod.ready.is_some())
    }

    /// The GPU product of a pod's node; none while it has no node, or the node says none.
    pub fn product(&self, pod: &PodView) -> Option<&Product> {
        self.snapshot.product_of(pod.node.as_ref()?)
    }

    /// Pods that exist and are not going away.
    pub fn present(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(|pod| !pod.gone)
    }

    /// The failure to tell of: the newest pod's, since what an older one complains of may have been mended meanwhile.
    pub fn failure(&self) -> Option<&PodFailure> {
        self.present()
            .filter(|pod| pod.ready.is_none() && pod.failure.is_some())
            .max_by_key(|pod| (pod.created, pod.name.as_str()))
            .and_then(|pod| pod.failure.as_ref())
    }

    /// Replicas of more than one template exist, or the Deployment has not caught up with what was applied.
    pub fn is_rolling(&self) -> bool {
        let templates: BTreeSet<_> = self.present().map(|pod| pod.template.as_str()).collect();
        let behind = self.deployment.as_ref().is_some_and(|deployment| {
            let status = &deployment.data["status"];
            let generation = deployment.metadata.generation.unwrap_or_default();
            status["observedGeneration"].as_i64().unwrap_or_default() < generation
                || status["updatedReplicas"].as_u64().unwrap_or_default()
                    < status["replicas"].as_u64().unwrap_or_default()
        });
        templates.len() > 1 || behind
    }

    /// The shape that the live Deployment has.
    pub fn live_shape(&self) -> Option<RolloutShape> {
        let strategy = &self.deployment.as_ref()?.data["spec"]["strategy"]["rollingUpdate"];
        Some(if strategy["maxSurge"].as_i64() == Some(0) { RolloutShape::REPLACE } else { RolloutShape::SURGE })
    }

    /// The digest of the template that the live Deployment was given.
    pub fn live_template(&self) -> Option<&str> {
        self.deployment.as_ref()?.metadata.annotations.as_ref()?.get(labels::TEMPLATE_DIGEST).map(String::as_str)
    }

    /// The 90th percentile of the time from creation to ready, over the pods that never restarted.
    pub fn startup_p90(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self
            .ready()
            .filter(|pod| pod.restarts == 0)
            .filter_map(|pod| Duration::try_from(pod.ready?.duration_since(pod.created?)).ok())
            .collect();
        times.sort_unstable();
        times.get((times.len() * 9).div_ceil(10).saturating_sub(1)).copied()
    }
}

/// The observation that the scaling law sees, and what the servers say of themselves.
pub struct Measured {
    /// For the law.
    pub observation: Observation,
    /// Of the servers that answered: provider and model digest.
    pub servers: Vec<ServerInfo>,
}

/// Gathers what the caches know.
pub fn observe(ctx: &Context, service: &ValidatedService) -> Observed {
    let name = ServiceName { namespace: service.namespace.clone(), name: service.name.clone() };
    let deployment_name = names::deployment(&service.name, service.pool(), labels::STABLE);
    let key = ObjectKey {
        kind: "Deployment".to_owned(),
        namespace: service.namespace.clone(),
        name: deployment_name.clone(),
    };
    let rivals = ctx.autoscalers.of_service(&name);
    let rival = rivals.iter().find(|autoscaler| autoscaler.0 == deployment_name);
    let is_ours = |object: &DynamicObject| {
        object
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.controller == Some(true) && owner.uid == service.uid)
    };
    Observed {
        deployment: ctx.owned.get(&key).and_then(|cached| cached.object().ok()).filter(is_ours),
        pods: ctx.pods.of_service(&name).iter().filter_map(|pod| pod.view.clone()).collect(),
        snapshot: ctx.snapshot(),
        rival: rival.map(|autoscaler| autoscaler.name().to_owned()),
    }
}

/// Tells the collector whom to scrape and takes what it has.
pub fn measure(ctx: &Context, service: &ValidatedService, observed: &Observed) -> Measured {
    let key = ServiceKey { namespace: service.namespace.clone(), name: service.name.clone(), uid: service.uid.clone() };
    let targets = observed.ready().filter_map(|pod| {
        Some(Target {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            address: pod.address?,
            port: METRICS_PORT,
            container_restarts: pod.restarts,
            ready_since: ctx.monotonic(pod.ready?),
            model: service.model.name.clone(),
            instances: service.runtime.instances,
        })
    });
    ctx.collector.set_targets(key.clone(), targets.collect());
    let now = ctx.now();
    let mut samples: HashMap<_, _> = ctx.collector.samples(&key, now).into_iter().collect();
    let ready = observed
        .ready()
        .map(|pod| Replica {
            name: pod.name.clone(),
            class: format!("{}/{}", pod.template, observed.product(pod).map_or("", |product| &product.name)),
            sample: samples
                .remove(&pod.name)
                .unwrap_or(ReplicaSample::Missing { since: now, reason: crate::scaling::MissingReason::NotYetSampled }),
        })
        .collect();
    let starting = observed
        .present()
        .filter(|pod| pod.ready.is_none())
        .map(|pod| Starting {
            since: pod.created.map_or(now, |created| ctx.monotonic(created)),
            restarts: pod.restarts,
            unschedulable: pod.unschedulable,
        })
        .collect();
    Measured {
        observation: Observation {
            // Before the Deployment is there, what it will start with: its absence is no shortage.
            current: observed.deployment.as_ref().map_or(service.scaling.min_replicas, scale::ordered),
            ready,
            starting,
            startup_p90: observed.startup_p90(),
            rolling_out: observed.is_rolling(),
        },
        servers: ctx.collector.servers(&key).into_iter().map(|(_, server)| server).collect(),
    }
}
