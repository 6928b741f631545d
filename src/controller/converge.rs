//! The writing part of a visit: build -> apply -> scale -> prune.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::{ApiResource, DynamicObject};
use serde_json::Value;

use super::apply::{self, Wanted};
use super::context::{Context, Memory};
use super::deletion_cost;
use super::error::Error;
use super::index::{Indexed as _, ServiceName};
use super::leaving;
use super::observe::Observed;
use super::order::Order;
use super::pods::PodView;
use super::rollout::{self, RolloutInput, RolloutPlan};
use super::scale;
use crate::api::labels;
use crate::placement::Placement;
use crate::resources::{self, Resources, RolloutShape, digest};
use crate::scaling::{self, Observation, Policy};
use crate::service::ValidatedService;

/// An object that the API server changes back after an apply is applied again only after this time.
const UNSETTLED_RETRY: Duration = Duration::from_mins(5);

/// The part of a visit that writes.
pub struct Work<'a> {
    /// What every reconcile shares.
    pub ctx: &'a Context,
    /// The service.
    pub service: &'a ValidatedService,
    /// The digest of the pod template that is wanted.
    pub template: String,
    /// What the caches know; the Deployment in it is kept up to date.
    pub observed: Observed,
    /// Where the replicas go.
    pub placement: Placement,
    /// What the law keeps.
    pub policy: Option<Policy>,
    /// Replicas that are wanted now.
    pub order: Order,
    /// What was measured.
    pub observation: &'a Observation,
}

/// How the writing part ended.
pub struct Converged {
    /// How the template is replaced.
    pub plan: RolloutPlan,
    /// Replicas before they were changed, if they were.
    pub scaled_from: Option<u32>,
    /// The API server dropped the model's image volume from the pod template.
    pub image_volume_dropped: bool,
}

impl Work<'_> {
    /// Applies what differs, writes replicas where they differ, removes what is wanted no longer.
    ///
    /// # Errors
    /// The first write that failed; the next visit goes on from there.
    pub async fn converge(&mut self) -> Result<Converged, Error> {
        let plan = self.plan();
        let seen = self.fingerprint(plan);
        if self.memory(|memory| memory.settled == Some(seen)) {
            // The same objects were compared before and found right; only replicas may have to follow.
            let scaled_from = self.scale().await?;
            return Ok(Converged { plan, scaled_from, image_volume_dropped: false });
        }
        let (RolloutPlan::Proceed(shape) | RolloutPlan::Waiting(shape)) = plan else {
            // The old template stays; everything that it does not concern is kept up.
            let resources = self.build(RolloutShape::SURGE)?;
            self.apply_parts(&resources).await?;
            let scaled_from = self.scale().await?;
            return Ok(Converged { plan, scaled_from, image_volume_dropped: false });
        };
        // A Deployment starts paused, and runs once its replicas were written: no pod starts that nobody ordered.
        let waits_for_order = self.observed.deployment.as_ref().is_none_or(is_paused) && self.observed.rival.is_none();
        let resources = self.build(shape.with_paused(waits_for_order))?;
        self.apply_parts(&resources).await?;
        let wanted = Wanted::new(&resources.deployment)?;
        if self.image_volume_dropped(&wanted) {
            return Ok(Converged { plan, scaled_from: None, image_volume_dropped: true });
        }
        self.observed.deployment = Some(self.apply_one(&wanted).await?);
        if self.image_volume_dropped(&wanted) {
            // Nothing is ordered: pods without a model could only fail.
            return Ok(Converged { plan, scaled_from: None, image_volume_dropped: true });
        }
        let scaled_from = self.scale().await?;
        if waits_for_order {
            let resources = self.build(shape)?;
            self.observed.deployment = Some(self.apply_one(&Wanted::new(&resources.deployment)?).await?);
        }
        self.prune(&resources).await?;
        // Versions change with every write, so an equal fingerprint means that nothing had to be written.
        let settled = Some(seen).filter(|seen| *seen == self.fingerprint(plan));
        self.memory(|memory| memory.settled = settled);
        Ok(Converged { plan, scaled_from, image_volume_dropped: false })
    }

    fn memory<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(self.ctx.memories().entry(self.service.uid.clone()).or_default())
    }

    /// All that the applying part of a visit depends on: what is wanted, and the versions of what is there.
    fn fingerprint(&self, plan: RolloutPlan) -> u64 {
        let mut hasher = DefaultHasher::new();
        let name = ServiceName { namespace: self.service.namespace.clone(), name: self.service.name.clone() };
        for object in self.ctx.owned.of_service(&name) {
            (object.key(), object.resource_version()).hash(&mut hasher);
        }
        for pod in &self.observed.pods {
            (&pod.settings, &pod.pool, pod.ready.is_some()).hash(&mut hasher);
        }
        (self.service.generation, format!("{plan:?}"), self.observed.rival.is_some()).hash(&mut hasher);
        hasher.finish()
    }

    fn plan(&self) -> RolloutPlan {
        rollout::plan(&RolloutInput {
            strategy: self.service.rollout.strategy,
            live: self.observed.live_shape(),
            template_changed: Some(self.template.as_str()) != self.observed.live_template(),
            rolling: self.observed.is_rolling(),
            free_replicas: self.placement.free_replicas,
            replicas: self.observed.deployment.as_ref().map_or(0, scale::ordered),
            ready: u32::try_from(self.observed.ready().count()).unwrap_or(u32::MAX),
            surge_unschedulable: self.observed.present().any(|pod| pod.unschedulable),
        })
    }

    fn build(&self, shape: RolloutShape) -> Result<Resources, Error> {
        resources::build(self.service, shape, &self.ctx.environment).map_err(Error::Build)
    }

    /// Everything but the Deployment, in an order in which nothing refers to what is not there yet.
    async fn apply_parts(&self, resources: &Resources) -> Result<(), Error> {
        let Resources { deployment: _, service, service_account, config_map, pod_disruption_budget, network_policy } =
            resources;
        self.apply_one(&Wanted::new(config_map)?).await?;
        self.apply_one(&Wanted::new(service_account)?).await?;
        self.apply_one(&Wanted::new(network_policy)?).await?;
        self.apply_one(&Wanted::new(service)?).await?;
        self.apply_one(&Wanted::new(pod_disruption_budget)?).await?;
        Ok(())
    }

    /// Applies one object, unless the API server changed the same back a moment ago: a webhook that insists is not fought.
    async fn apply_one(&self, wanted: &Wanted) -> Result<DynamicObject, Error> {
        let digest = digest::of(&wanted.object);
        let mut unsettled = self.ctx.unsettled.lock().unwrap_or_else(PoisonError::into_inner).get(&wanted.key).cloned();
        unsettled = unsettled.filter(|(applied, at)| *applied == digest && at.elapsed() < UNSETTLED_RETRY);
        if unsettled.is_some()
            && let Some(live) = self.ctx.owned.get(&wanted.key)
        {
            return live.object().map_err(|source| Error::Serialise { kind: "live object", source });
        }
        let (live, written) = apply::apply(self.ctx, self.service, wanted).await?;
        if written && !apply::is_settled(&live, wanted)? {
            tracing::warn!(
                kind = wanted.key.kind,
                name = wanted.key.name,
                "something changes this object back after every apply"
            );
            let mut unsettled = self.ctx.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
            unsettled.retain(|_, (_, at)| at.elapsed() < UNSETTLED_RETRY);
            unsettled.insert(wanted.key.clone(), (digest, Instant::now()));
        }
        Ok(live)
    }

    /// Kubernetes before 1.35 may drop the image source of a volume without a word; applying again would not help.
    fn image_volume_dropped(&self, wanted: &Wanted) -> bool {
        let Some(live) = &self.observed.deployment else { return false };
        let same_template = live
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(labels::TEMPLATE_DIGEST))
            .map(String::as_str)
            == wanted.object["metadata"]["annotations"][labels::TEMPLATE_DIGEST].as_str();
        let images = |volumes: &Value| {
            volumes
                .as_array()
                .into_iter()
                .flatten()
                .filter(|volume| volume.get("image").is_some_and(Value::is_object))
                .count()
        };
        let path = "/spec/template/spec/volumes";
        let wanted = wanted.object.pointer(path).map_or(0, images);
        same_template && live.data.pointer(path).map_or(0, images) < wanted
    }

    /// Writes replicas where they differ; always for a new Deployment, so that they are ours.
    async fn scale(&self) -> Result<Option<u32>, Error> {
        let Some(deployment) = &self.observed.deployment else { return Ok(None) };
        if self.observed.rival.is_some() {
            return Ok(None);
        }
        let (ordered, desired, new) = (scale::ordered(deployment), self.order.replicas, is_paused(deployment));
        if ordered == desired && !new {
            return Ok(None);
        }
        if self.ctx.deletion_cost && desired < ordered {
            deletion_cost::tell(self.ctx, &self.service.namespace, &self.leaving()).await;
        }
        scale::scale(self.ctx, deployment, desired).await?;
        if new {
            return Ok(None);
        }
        let reason = self.order.cause;
        tracing::info!(
            namespace = self.service.namespace,
            service = self.service.name,
            from = ordered,
            to = desired,
            reason,
            "scaled"
        );
        self.ctx.metrics.scalings.with_label_values(&[reason]).inc();
        Ok(Some(ordered))
    }

    /// The pods whose deletion cost changes before the replicas are lowered.
    fn leaving(&self) -> Vec<leaving::Change> {
        // While templates change, the Deployment divides what goes among two ReplicaSets.
        let Some(policy) = self.policy.as_ref().filter(|_| !self.observed.is_rolling()) else {
            return Vec::new();
        };
        let memories = self.ctx.memories();
        let state = memories.get(&self.service.uid).map(|memory| memory.scaling.clone()).unwrap_or_default();
        let standings = scaling::standings(policy, &state, self.observation, self.ctx.now());
        let gpu = self.service.gpu.as_ref();
        let product = |pod: &PodView| self.observed.product(pod).map(|product| product.name.as_str());
        let preference = |pod: &PodView| gpu.map_or(0, |gpu| gpu.preference(product(pod)));
        leaving::changes(&self.observed.pods, &standings, preference, self.order.replicas)
    }

    /// Deletes settings that no pod uses any more, and the Deployment of a pool that was left once the new one answers.
    async fn prune(&self, resources: &Resources) -> Result<(), Error> {
        let current = |object: &DynamicObject, name: Option<&String>| object.metadata.name.as_ref() == name;
        let used: Vec<&String> = self.observed.pods.iter().filter_map(|pod| pod.settings.as_ref()).collect();
        let answers = self.observed.ready().any(|pod| pod.pool == self.placement.pool);
        let kinds = [ApiResource::erase::<ConfigMap>(&()), ApiResource::erase::<Deployment>(&())];
        apply::prune(self.ctx, self.service, &kinds, |object| {
            match object.types.as_ref().map(|types| types.kind.as_str()) {
                Some("ConfigMap") => {
                    current(object, resources.config_map.metadata.name.as_ref())
                        || used.iter().any(|name| Some(*name) == object.metadata.name.as_ref())
                }
                Some("Deployment") => current(object, resources.deployment.metadata.name.as_ref()) || !answers,
                _ => true,
            }
        })
        .await
    }
}

fn is_paused(deployment: &DynamicObject) -> bool {
    deployment.data["spec"]["paused"].as_bool().unwrap_or(false)
}

/// The digest of the pod template in built objects.
pub fn template_digest(resources: &Resources) -> Option<String> {
    resources.deployment.metadata.annotations.as_ref()?.get(labels::TEMPLATE_DIGEST).cloned()
}
