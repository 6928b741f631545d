//! One visit to one InferenceService: observe -> validate -> decide -> build -> apply -> scale -> status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::error_boundary::DeserializeGuard;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::Action;
use serde_json::Value;

use super::apply::{self, Wanted};
use super::context::Context;
use super::error::Error;
use super::observe::{self, Measured, Observed};
use super::publish::{previous_status, publish};
use super::rollout::{self, RolloutInput, RolloutPlan};
use super::scale;
use super::status::{self, Findings, Stop};
use crate::api::scaling::ScalingMode;
use crate::api::{InferenceService, labels};
use crate::placement::{self, Placement};
use crate::resources::{self, Resources, RolloutShape, digest};
use crate::scaling::{self, Decision, Policy, PolicySettings};
use crate::scrape::ServiceKey;
use crate::service::{ValidatedService, validate};

/// An InferenceService, or what could be read of one that does not fit the schema.
pub type Guarded = DeserializeGuard<InferenceService>;

/// Measured values are published at most this often, unless replicas change.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(30);
/// Without an event, a service is looked at again after this time: deadlines pass without one.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// The same while something is under way.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// How long a start is expected to take before one was measured.
const STARTUP_FALLBACK: Duration = Duration::from_secs(60);
/// Failed visits in a row that the status says nothing of: a conflict is over in a moment.
const SILENT_FAILURES: u32 = 3;
/// An object that the API server changes back after an apply is applied again only after this time.
const UNSETTLED_RETRY: Duration = Duration::from_secs(300);

/// Brings one service closer to what its user wants, and says how far it is.
///
/// # Errors
/// The step that failed. The status tells of it too, unless a retry a moment later is likely to do.
pub async fn reconcile(object: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = visit(&object, &ctx).await;
    ctx.metrics.reconcile_seconds.observe(started.elapsed().as_secs_f64());
    ctx.metrics.reconciles.with_label_values(&[result.as_ref().map_or_else(Error::category, |_| "ok")]).inc();
    result
}

/// When to try again after an error.
pub fn error_policy(object: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    let uid = object.uid().unwrap_or_default();
    let failures = ctx.memories().get(&uid).map_or(0, |memory| memory.failures);
    tracing::warn!(
        namespace = object.namespace().unwrap_or_default(),
        service = object.name_any(),
        category = error.category(),
        error = %error,
        "visit failed"
    );
    Action::requeue(error.retry_after(failures.saturating_sub(1)))
}

async fn visit(object: &Guarded, ctx: &Context) -> Result<Action, Error> {
    let service = match &object.0 {
        Ok(service) => service,
        Err(invalid) => {
            // Written under an older schema. Nothing of it can be trusted, so nothing of it is touched.
            tracing::warn!(service = object.name_any(), error = %invalid, "object does not fit the schema, ignored");
            return Ok(Action::await_change());
        }
    };
    if service.metadata.deletion_timestamp.is_some() {
        forget(ctx, service);
        return Ok(Action::await_change());
    }
    let previous = previous_status(ctx, service);
    let validated = match validate(service, &ctx.defaults) {
        Ok(validated) => validated,
        Err(error) => return reject(ctx, service, "InvalidSpec", error.to_string()).await,
    };
    if let Err(resources::Error::PodTemplate { field, problem }) =
        resources::build(&validated, RolloutShape::SURGE, &ctx.environment)
    {
        return reject(ctx, service, "InvalidPodTemplate", format!("{field}: {problem}")).await;
    }

    let observed = observe::observe(ctx, &validated); // caches only
    let measured = observe::measure(ctx, &validated, &observed); // caches only
    let placement = placement::place(&observed.snapshot, &validated); // pure
    let decision = decide(ctx, &validated, &measured); // pure
    let mut work = Work { ctx, service: &validated, observed, placement, decision };

    let outcome = work.converge().await; // requests
    let memory_failures = {
        let mut memories = ctx.memories();
        let memory = memories.entry(validated.uid.clone()).or_default();
        memory.failures = if outcome.is_ok() { 0 } else { memory.failures.saturating_add(1) };
        memory.failures
    };
    let stop = outcome.as_ref().err().map(|error| Stop {
        reason: error.reason().to_owned(),
        message: error.to_string(),
        permanent: error.is_permanent(),
    });
    if let Err(error) = outcome.as_ref()
        && !error.is_permanent()
        && memory_failures < SILENT_FAILURES
    {
        return outcome.map(|_| Action::await_change());
    }
    let converged = outcome.as_ref().ok();
    let (publish_measured, metrics_missing) = clocks(ctx, &validated, work.decision.as_ref());
    let new = status::compute(
        &previous,
        &Findings {
            service: &validated,
            observed: &work.observed,
            placement: &work.placement,
            decision: work.decision.as_ref(),
            desired: work.desired(),
            scaled_from: converged.and_then(|converged| converged.scaled_from),
            plan: converged.map_or(RolloutPlan::Proceed(RolloutShape::SURGE), |converged| converged.plan),
            image_volume_dropped: converged.is_some_and(|converged| converged.image_volume_dropped),
            metrics_missing,
            servers: &measured.servers,
            stop: stop.as_ref(),
        },
        publish_measured,
        Timestamp::now(),
    );
    if publish_measured && new.scaling != previous.scaling {
        ctx.memories().entry(validated.uid.clone()).or_default().measured_published = Some(Instant::now());
    }
    publish(ctx, service, &previous, new).await?;
    let settled = outcome?.plan == RolloutPlan::Proceed(work.observed.live_shape().unwrap_or(RolloutShape::SURGE))
        && !work.observed.is_rolling()
        && work.observed.present().all(|pod| pod.ready.is_some());
    Ok(Action::requeue(if settled { IDLE_INTERVAL } else { BUSY_INTERVAL }))
}

/// A service that can't be acted on: says why and waits for a change of it.
async fn reject(ctx: &Context, service: &InferenceService, reason: &str, message: String) -> Result<Action, Error> {
    let stop = Stop { reason: reason.to_owned(), message, permanent: true };
    let previous = previous_status(ctx, service);
    let new = status::rejected(&previous, service.metadata.generation.unwrap_or_default(), &stop, Timestamp::now());
    publish(ctx, service, &previous, new).await?;
    Ok(Action::await_change())
}

fn forget(ctx: &Context, service: &InferenceService) {
    let uid = service.uid().unwrap_or_default();
    ctx.memories().remove(&uid);
    ctx.collector.forget(&ServiceKey {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        uid,
    });
}

/// Asks the law, with its state from the last visit.
fn decide(ctx: &Context, service: &ValidatedService, measured: &Measured) -> Option<Decision> {
    if service.scaling.mode == ScalingMode::External {
        return None;
    }
    let policy = Policy::new(PolicySettings {
        min_replicas: service.scaling.min_replicas,
        max_replicas: service.scaling.max_replicas,
        target_queue_time: service.scaling.target_queue_time,
        stabilization_window: service.scaling.scale_down_stabilization,
        max_batch_size: service.runtime.max_batch_size,
        batching_delay: service.runtime.max_queue_delay,
        scrape_interval: ctx.scrape_interval,
        startup_fallback: STARTUP_FALLBACK,
    });
    let policy = match policy {
        Ok(policy) => policy,
        Err(error) => {
            tracing::error!(service = service.name, error = %error, "validated service makes no policy");
            return None;
        }
    };
    let mut memories = ctx.memories();
    let memory = memories.entry(service.uid.clone()).or_default();
    let state = std::mem::take(&mut memory.scaling);
    let (decision, state) = scaling::decide(&policy, state, &measured.observation, ctx.now());
    memory.scaling = state;
    Some(decision)
}

/// Whether measured values are due for publishing, and whether metrics have been missing for more than a moment.
fn clocks(ctx: &Context, service: &ValidatedService, decision: Option<&Decision>) -> (bool, bool) {
    let now = Instant::now();
    let mut memories = ctx.memories();
    let memory = memories.entry(service.uid.clone()).or_default();
    let missing = decision.is_some_and(|decision| !decision.reason.has_metrics());
    memory.metrics_missing_since = if missing { memory.metrics_missing_since.or(Some(now)) } else { None };
    let missing_long =
        memory.metrics_missing_since.is_some_and(|since| now.duration_since(since) > ctx.scrape_interval * 3);
    let due = memory.measured_published.is_none_or(|at| now.duration_since(at) >= PUBLISH_INTERVAL);
    (due, missing_long)
}

/// The part of a visit that writes.
struct Work<'a> {
    ctx: &'a Context,
    service: &'a ValidatedService,
    observed: Observed,
    placement: Placement,
    decision: Option<Decision>,
}

/// How the writing part ended.
struct Converged {
    plan: RolloutPlan,
    scaled_from: Option<u32>,
    image_volume_dropped: bool,
}

impl Work<'_> {
    /// Replicas that are wanted now.
    fn desired(&self) -> u32 {
        self.decision.as_ref().map_or(self.service.scaling.external_replicas, |decision| decision.replicas)
    }

    async fn converge(&mut self) -> Result<Converged, Error> {
        let plan = self.plan();
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
        let image_volume_dropped = self.image_volume_dropped(&wanted);
        let scaled_from = self.scale().await?;
        if waits_for_order {
            let resources = self.build(shape)?;
            self.observed.deployment = Some(self.apply_one(&Wanted::new(&resources.deployment)?).await?);
        }
        self.prune(&resources).await?;
        Ok(Converged { plan, scaled_from, image_volume_dropped })
    }

    fn plan(&self) -> RolloutPlan {
        let wanted = self.build(RolloutShape::SURGE).ok().and_then(|resources| template_digest(&resources));
        rollout::plan(&RolloutInput {
            strategy: self.service.rollout.strategy,
            live: self.observed.live_shape(),
            template_changed: wanted.as_deref() != self.observed.live_template(),
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
        let mut unsettled =
            self.ctx.unsettled.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&wanted.key).cloned();
        unsettled = unsettled.filter(|(applied, at)| *applied == digest && at.elapsed() < UNSETTLED_RETRY);
        if unsettled.is_some()
            && let Some(live) = self.ctx.owned.get(&wanted.key)
        {
            return Ok((*live).clone());
        }
        let (live, written) = apply::apply(self.ctx, self.service, wanted).await?;
        if written && !apply::is_settled(&live, wanted)? {
            tracing::warn!(
                kind = wanted.key.kind,
                name = wanted.key.name,
                "something changes this object back after every apply"
            );
            let mut unsettled = self.ctx.unsettled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        let (ordered, desired, new) = (scale::ordered(deployment), self.desired(), is_paused(deployment));
        if ordered == desired && !new {
            return Ok(None);
        }
        scale::scale(self.ctx, deployment, desired).await?;
        let reason = self.decision.as_ref().map_or("External", |decision| decision.reason.as_str());
        tracing::info!(
            namespace = self.service.namespace,
            service = self.service.name,
            from = ordered,
            to = desired,
            reason,
            "scaled"
        );
        self.ctx.metrics.scalings.with_label_values(&[reason]).inc();
        Ok((!new).then_some(ordered))
    }

    /// Deletes settings that no pod uses any more, and the Deployment of a pool that was left once the new one answers.
    async fn prune(&self, resources: &Resources) -> Result<(), Error> {
        let current = |object: &DynamicObject, name: Option<&String>| object.metadata.name.as_ref() == name;
        let used: Vec<&String> = self.observed.pods.iter().filter_map(|pod| pod.settings.as_ref()).collect();
        let answers = self.observed.ready().any(|pod| pod.pool == self.placement.pool);
        let kinds = [
            ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&()),
            ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&()),
        ];
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

fn template_digest(resources: &Resources) -> Option<String> {
    resources.deployment.metadata.annotations.as_ref()?.get(labels::TEMPLATE_DIGEST).cloned()
}
