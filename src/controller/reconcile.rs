//! One visit to one InferenceService: observe -> validate -> decide -> build -> apply -> scale -> status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::controller::Action;

use super::context::Context;
use super::converge::{self, Work};
use super::error::Error;
use super::index::ServiceName;
use super::observe;
use super::order::Order;
use super::publish::{previous_status, publish};
use super::rollout::RolloutPlan;
use super::status::{self, Findings, Stop};
use crate::api::InferenceService;
use crate::explain::Record;
use crate::placement;
use crate::resources::{self, RolloutShape};
use crate::scaling::{self, Decision, Monotonic, Observation, Policy, PolicySettings};
use crate::scrape::ServiceKey;
use crate::service::{ValidatedService, validate};
use crate::telemetry::metrics::ControllerMetrics;

/// An InferenceService, or what could be read of one that does not fit the schema.
pub type Guarded = DeserializeGuard<InferenceService>;

/// Measured values are published at most this often, unless replicas change.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(30);
/// Without an event, a service is looked at again after this time: deadlines pass without one.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// The same while something has just begun to be under way.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// After this time, what is under way has nothing left that only a visit shows: a pod without a node waits for hours.
const BUSY_FOR: Duration = Duration::from_mins(2);
/// How long a start is expected to take before one was measured.
const STARTUP_FALLBACK: Duration = Duration::from_mins(1);
/// Failed visits in a row that the status says nothing of: a conflict is over in a moment.
const SILENT_FAILURES: u32 = 3;

/// Brings one service closer to what its user wants, and says how far it is.
///
/// # Errors
/// The step that failed. The status tells of it too, unless a retry a moment later is likely to do.
pub async fn reconcile(object: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = Box::pin(visit(&object, &ctx)).await;
    ctx.metrics.reconcile_seconds.observe(started.elapsed().as_secs_f64());
    ctx.metrics.reconciles.with_label_values(&[result.as_ref().map_or_else(Error::category, |_| "ok")]).inc();
    result
}

/// When to try again after an error.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
pub fn error_policy(object: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    let uid = object.uid().unwrap_or_default();
    let failures = ctx.memories().get(&uid).map_or(0, |memory| memory.failures);
    let (namespace, service, category) = (object.namespace().unwrap_or_default(), object.name_any(), error.category());
    if error.is_conflict() {
        tracing::debug!(namespace, service, category, error = %error, "somebody else wrote at the same moment, trying again");
    } else {
        tracing::warn!(namespace, service, category, error = %error, "visit failed");
    }
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
        forget(ctx, &ServiceName { namespace: service.namespace().unwrap_or_default(), name: service.name_any() });
        return Ok(Action::await_change());
    }
    let previous = previous_status(ctx, service);
    let validated = match validate(service, &ctx.defaults) {
        Ok(validated) => validated,
        Err(error) => return reject(ctx, service, "InvalidSpec", error.to_string()).await,
    };
    if !ctx.memories().contains_key(&validated.uid) {
        // One of the same name may have been deleted a moment ago.
        forget(ctx, &ServiceName { namespace: validated.namespace.clone(), name: validated.name.clone() });
    }
    let template = match template(ctx, &validated) {
        Ok(digest) => digest,
        Err(problem) => return reject(ctx, service, "InvalidPodTemplate", problem).await,
    };
    let observed = observe::observe(ctx, &validated); // caches only
    let measured = observe::measure(ctx, &validated, &observed); // caches only
    let placement = placement::place(&observed.snapshot, &validated); // pure
    let policy = policy(ctx, &validated);
    // In every mode, for whoever wants to know or acts on it.
    let decision =
        policy.clone().map(|policy| decide(ctx, &validated, policy, &measured.observation, observed.rival.as_deref())); // pure
    let order = Order::new(&validated.scaling, decision.as_ref(), measured.observation.current); // pure
    let mut work = Work {
        ctx,
        service: &validated,
        template,
        observed,
        placement,
        policy,
        order,
        observation: &measured.observation,
    };

    let outcome = Box::pin(work.converge()).await; // requests
    if outcome.as_ref().is_err_and(Error::is_namespace_going) {
        return Ok(Action::await_change());
    }
    let memory_failures = {
        let mut memories = ctx.memories();
        let memory = memories.entry(validated.uid.clone()).or_default();
        memory.service = Some(ServiceName { namespace: validated.namespace.clone(), name: validated.name.clone() });
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
    let (publish_measured, metrics_missing) = clocks(ctx, &validated, decision.as_ref());
    let new = status::compute(
        &previous,
        &Findings {
            service: &validated,
            observed: &work.observed,
            placement: &work.placement,
            decision: decision.as_ref(),
            order,
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
    let mut memories = ctx.memories();
    let busy_since = &mut memories.entry(validated.uid.clone()).or_default().busy_since;
    Ok(Action::requeue(next_visit(settled, busy_since, Instant::now())))
}

/// How long until the next visit that no event asks for.
fn next_visit(settled: bool, busy_since: &mut Option<Instant>, now: Instant) -> Duration {
    if settled {
        *busy_since = None;
        return IDLE_INTERVAL;
    }
    let since = *busy_since.get_or_insert(now);
    if now.duration_since(since) < BUSY_FOR { BUSY_INTERVAL } else { IDLE_INTERVAL }
}

/// A service that can't be acted on: says why and waits for a change of it.
async fn reject(ctx: &Context, service: &InferenceService, reason: &str, message: String) -> Result<Action, Error> {
    let stop = Stop { reason: reason.to_owned(), message, permanent: true };
    ctx.records.forget(&service.namespace().unwrap_or_default(), &service.name_any());
    let previous = previous_status(ctx, service);
    let new = status::rejected(&previous, service.metadata.generation.unwrap_or_default(), &stop, Timestamp::now());
    publish(ctx, service, &previous, new).await?;
    Ok(Action::await_change())
}

/// Forgets a service that is gone: its state, and whom to scrape for it.
pub fn forget(ctx: &Context, service: &ServiceName) {
    ctx.records.forget(&service.namespace, &service.name);
    ctx.memories().retain(|uid, memory| {
        let gone = memory.service.as_ref() == Some(service);
        if gone {
            let ServiceName { namespace, name } = service.clone();
            ctx.collector.forget(&ServiceKey { namespace, name, uid: uid.clone() });
        }
        !gone
    });
}

/// The digest of the service's pod template, built once a generation: a visit comes with every scrape.
fn template(ctx: &Context, service: &ValidatedService) -> Result<String, String> {
    let known = ctx.memories().get(&service.uid).and_then(|memory| memory.template.clone());
    if let Some((generation, template)) = known
        && generation == service.generation
    {
        return template;
    }
    let template = resources::build(service, RolloutShape::SURGE, &ctx.environment)
        .map_err(|error| error.to_string())
        .map(|resources| converge::template_digest(&resources).unwrap_or_default());
    ctx.memories().entry(service.uid.clone()).or_default().template = Some((service.generation, template.clone()));
    template
}

/// Asks the law, with its state from the last visit, and keeps what it said with what it saw.
fn decide(
    ctx: &Context,
    service: &ValidatedService,
    policy: Policy,
    observation: &Observation,
    rival: Option<&str>,
) -> Decision {
    let now = ctx.now();
    let decision = {
        let mut memories = ctx.memories();
        let memory = memories.entry(service.uid.clone()).or_default();
        let state = std::mem::take(&mut memory.scaling);
        let (decision, state) = scaling::decide(&policy, state, observation, now);
        memory.scaling = state;
        if let Some(newest) = observation.newest() {
            note_lag(&ctx.metrics, &mut memory.news, newest, now);
        }
        decision
    };
    let record = Record {
        policy,
        decision: decision.clone(),
        observation: observation.without_batches(),
        now,
        decided_at: Timestamp::now(),
        conflict: rival.map(str::to_owned),
        acts: service.scaling.acts() && rival.is_none(),
    };
    ctx.records.put(&service.namespace, &service.name, record);
    decision
}

/// What the law is asked to keep.
fn policy(ctx: &Context, service: &ValidatedService) -> Option<Policy> {
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
    policy
        .inspect_err(|error| {
            tracing::error!(service = service.name, error = %error, "validated service makes no policy");
        })
        .ok()
}

/// Counts how old the news was that was decided on, and how long the last news is ago. Visits without news don't count.
fn note_lag(
    metrics: &ControllerMetrics,
    known: &mut Option<(Monotonic, Monotonic)>,
    newest: Monotonic,
    now: Monotonic,
) {
    if known.is_some_and(|(last, _)| newest <= last) {
        return;
    }
    metrics.decision_age_seconds.observe(now.since(newest).as_secs_f64());
    if let Some((_, before)) = known.replace((newest, now)) {
        metrics.decision_interval_seconds.observe(now.since(before).as_secs_f64());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_counted_once_for_each_news() {
        let metrics = ControllerMetrics::register(&prometheus::Registry::new()).unwrap();
        let at = |second| Monotonic::from_start(Duration::from_secs(second));
        let mut decided = None;
        for (newest, now) in [(10, 11), (10, 12), (15, 16), (15, 40), (20, 21)] {
            note_lag(&metrics, &mut decided, at(newest), at(now));
        }
        let (age, interval) = (&metrics.decision_age_seconds, &metrics.decision_interval_seconds);
        assert_eq!((age.get_sample_count(), interval.get_sample_count()), (3, 2));
        assert!((age.get_sample_sum() - 3.0).abs() < 1e-9 && (interval.get_sample_sum() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_service_that_stays_unsettled_is_visited_as_seldom_as_a_settled_one() {
        let start = Instant::now();
        let mut since = None;
        assert_eq!(next_visit(false, &mut since, start), BUSY_INTERVAL);
        assert_eq!(next_visit(false, &mut since, start + BUSY_FOR / 2), BUSY_INTERVAL);
        assert_eq!(next_visit(false, &mut since, start + BUSY_FOR), IDLE_INTERVAL);
        assert_eq!(next_visit(true, &mut since, start + BUSY_FOR), IDLE_INTERVAL);
        assert_eq!(next_visit(false, &mut since, start + 2 * BUSY_FOR), BUSY_INTERVAL, "a new change begins anew");
    }
}
