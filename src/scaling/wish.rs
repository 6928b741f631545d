//! What the measurements ask for, before windows, limits and the scheduler have their say.

use std::time::Duration;

use super::capacity::{Capacity, CapacitySource};
use super::decision::{Inputs, Reason};
use super::demand::certain_rate;
use super::observation::Monotonic;
use super::policy::Policy;
use super::state::State;
use super::view::{Pressure, View};
use super::whole;

/// More than this part above the current number is needed before another replica is ordered, and as much below
/// before one is given back: noise around a whole number moves nothing.
const DEAD_BAND: f64 = 0.05;
/// A replica is given back only where the others would wait for at most this part of the target without it.
const RELEASE_TARGET: f64 = 0.9;
/// Part of the full speed at which a backlog is worked off.
const DRAIN_SPEED: f64 = 0.95;
/// Shortest time in which a backlog must be worked off. Working it off sooner costs more than it brings: what was
/// ordered for it stays for the whole window.
const SHORTEST_DRAIN: Duration = Duration::from_secs(30);
/// A backlog counts for at most this part of the demand: it also grows because starting takes time, and an uncapped
/// one orders many times what is needed.
const MOST_BACKLOG: f64 = 0.5;
/// Shortest time between two increases that only a growing queue asks for: clients that hold their connections reach
/// new replicas within it.
const SHORTEST_LOCKOUT: Duration = Duration::from_secs(30);
/// Most replicas that a growing queue adds at once while the capacity is unknown.
const BLIND_STEP: u32 = 4;
/// Failing starts from which on a growing queue orders no more.
const FAILING_STARTS: u32 = 2;
/// Arrivals, or waiting batches, of this many times what the ready replicas take are a panic (Knative's threshold).
const PANIC: f64 = 2.0;
/// Nothing is removed for this long after a panic (Knative's stable window).
const PANIC_LASTS: Duration = Duration::from_mins(1);

/// What is asked for.
pub(super) struct Wish {
    /// The number that is needed at once.
    pub(super) now: u32,
    /// The number that would do, with some air: what the window remembers.
    pub(super) later: u32,
    /// The same without the backlog, which comes back with no peak: what longer windows remember.
    pub(super) lasting: u32,
    /// Why `now` is what it is.
    pub(super) reason: Reason,
}

impl Wish {
    /// The number that there is.
    pub(super) const fn hold(current: u32, reason: Reason) -> Self {
        Self { now: current, later: current, lasting: current, reason }
    }
}

/// What a fleet is fed with, in images.
struct Load {
    /// Per second, now.
    level: f64,
    /// Per second, when a replica that is ordered now answers.
    expected: f64,
    /// Waiting, and worked off in addition.
    backlog: f64,
}

pub(super) fn wish(
    policy: &Policy,
    state: &mut State,
    view: &View<'_>,
    inputs: &mut Inputs,
    current: u32,
    now: Monotonic,
) -> Wish {
    let settings = policy.settings();
    let pressure = view.pressure(inputs.target_queue_time, settings.max_batch_size);
    let target = inputs.target_queue_time;
    let capacity = state.capacity(settings, view, target, now);
    let arrivals = certain_rate(view.arrivals(), settings.scrape_interval);
    let panics = capacity.is_some_and(|known| is_panic(view, known, arrivals, settings.max_batch_size));
    if panics {
        state.panic_until = Some(now + PANIC_LASTS);
    }
    let growing = pressure == Pressure::Severe || state.is_growing();
    let mut level = state.demand.level().unwrap_or_default();
    if growing || panics {
        // The smoothed level trails a rise; while the queue grows there is no doubt that it is one.
        level = level.max(arrivals);
    }
    let rise = state.demand.rise_within(view.startup + settings.scrape_interval);
    let load = Load { level, expected: level + rise, backlog: view.pending_images() };
    inputs.arrivals_per_second = Some(level);
    inputs.expected_per_second = Some(load.expected);

    let capacity = capacity.map(|known| allow_for_observed(known, pressure, level, view));
    inputs.capacity_per_replica = capacity.map(|known| known.within_target);
    inputs.capacity_source = capacity.map_or(CapacitySource::Unknown, |known| known.source);
    let release = state.capacity(settings, view, target.mul_f64(RELEASE_TARGET), now);

    let base = base(settings.min_replicas, view, capacity, release, &load, current, inputs);
    let wish = if growing && base.now <= current {
        grow(state, view, current, capacity.is_some(), now)
    } else if pressure == Pressure::Uneven && base.now <= current {
        // New replicas get their share only as clients open new connections.
        let settles = state.last_increase.is_some_and(|last| now.since(last.at) < lockout(view));
        let reason = if settles { Reason::StartingCapacity } else { Reason::LoadImbalance };
        Wish::hold(current, reason)
    } else {
        base
    };
    inputs.wanted = Some(wish.now.max(wish.later));
    wish
}

/// Far more arrives, or waits, than the ready replicas can take.
fn is_panic(view: &View<'_>, capacity: Capacity, arrivals: f64, max_batch_size: u32) -> bool {
    let ready = f64::from(view.ready);
    arrivals > PANIC * ready * capacity.within_target
        || view.pending_images() > PANIC * ready * f64::from(max_batch_size)
}

/// What demand, trend, capacity and backlog ask for.
fn base(
    minimum: u32,
    view: &View<'_>,
    capacity: Option<Capacity>,
    release: Option<Capacity>,
    load: &Load,
    current: u32,
    inputs: &mut Inputs,
) -> Wish {
    let Some(capacity) = capacity else {
        let idle = load.level <= 0.0 && load.backlog <= 0.0;
        let later = if idle { minimum } else { current };
        let reason = if idle { Reason::OnTarget } else { Reason::UnknownCapacity };
        return Wish { now: later.min(current), later, lasting: later, reason };
    };
    let needed = |rate: f64| rate / capacity.within_target;
    let to_drain = to_drain(load, capacity, view.startup);
    // One replica far slower than its class does nothing that counts; more of them are a fault that no order mends.
    let in_place = view.slow.min(1);
    let for_level = rounded_up(needed(load.level), current);
    let for_demand = rounded_up(needed(load.expected), current);
    let for_backlog = rounded_up(to_drain, current);
    inputs.wanted_for_demand = Some(for_demand);
    inputs.wanted_for_backlog = Some(for_backlog);

    let air = |replicas: f64| whole((replicas * (1.0 + DEAD_BAND)).ceil());
    let with_air = air(needed(load.expected));
    // Without one of them, the others would still be within the target.
    let foreseen = release.map_or(0, |release| whole((load.level / release.within_target.max(1e-9)).ceil()));
    let foreseen = if capacity.source == CapacitySource::Observed { with_air } else { foreseen };
    // A missing replica may be as busy as a replica can be.
    let others = view.missing.saturating_add(in_place);
    let lasting = with_air.max(foreseen).saturating_add(others).max(minimum);
    let later = lasting.max(air(to_drain).saturating_add(others));
    let needed_now = for_demand.max(for_backlog);
    Wish {
        now: needed_now.saturating_add(if needed_now > 1 { in_place } else { 0 }),
        later,
        lasting,
        reason: match (for_level > current, for_demand > current, for_backlog > current) {
            (true, ..) => Reason::DemandAboveCapacity,
            (_, true, _) => Reason::DemandRising,
            (_, _, true) => Reason::Backlog,
            _ if needed_now > 1 && needed_now + in_place > current => Reason::SlowReplica,
            _ => Reason::OnTarget,
        },
    }
}

/// How many replicas work off what waits in time, beside the demand.
fn to_drain(load: &Load, capacity: Capacity, startup: Duration) -> f64 {
    if load.backlog <= 0.0 {
        return 0.0;
    }
    let time = SHORTEST_DRAIN.max(startup * 2).as_secs_f64();
    let backlog = (load.backlog / time).min(load.level * MOST_BACKLOG);
    (load.level + backlog) / (DRAIN_SPEED * capacity.full_speed)
}

/// What a growing queue asks for that no model explains.
fn grow(state: &State, view: &View<'_>, current: u32, capacity_known: bool, now: Monotonic) -> Wish {
    if view.coming > 0 {
        return Wish::hold(current, Reason::StartingCapacity);
    }
    if view.failing >= FAILING_STARTS {
        return Wish::hold(current, Reason::ReplicasFailing);
    }
    if let Some(last) = state.last_increase.filter(|last| now.since(last.at) < lockout(view)) {
        // The order was given; if it is not carried out yet, it still stands.
        let reason = if last.to > current { Reason::QueueGrowing } else { Reason::StartingCapacity };
        return Wish { now: last.to.max(current), ..Wish::hold(current, reason) };
    }
    let step = if capacity_known { 1 } else { current.clamp(1, BLIND_STEP) };
    Wish { now: current.saturating_add(step), ..Wish::hold(current, Reason::QueueGrowing) }
}

/// How long after an increase a growing queue asks for no other: until the new replicas are there and have traffic.
/// Slower than the dead time, this feedback can't oscillate.
fn lockout(view: &View<'_>) -> Duration {
    SHORTEST_LOCKOUT.max(view.startup)
}

/// While nothing waits, replicas have at least the capacity that they are using, whatever the model promises: few
/// clients that wait for their answers keep a replica busy without ever queueing.
fn allow_for_observed(known: Capacity, pressure: Pressure, demand: f64, view: &View<'_>) -> Capacity {
    let used = demand / f64::from(view.ready.max(1));
    if pressure == Pressure::Calm && used > known.within_target {
        let full_speed = known.full_speed.max(used);
        return Capacity { within_target: used, full_speed, source: CapacitySource::Observed };
    }
    known
}

/// Rounds up, but not for a dead band above the current number.
fn rounded_up(needed: f64, current: u32) -> u32 {
    let has = f64::from(current);
    if needed > has && needed <= has * (1.0 + DEAD_BAND) { current } else { whole((needed - 1e-9).ceil()) }
}
