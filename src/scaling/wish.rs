//! What the measurements ask for, before windows, limits and the scheduler have their say.

use std::time::Duration;

use super::base::{Basis, Wish};
use super::capacity::{Capacity, CapacitySource};
use super::decision::{Inputs, Reason};
use super::demand::certain_rate;
use super::observation::Monotonic;
use super::policy::Policy;
use super::state::State;
use super::view::{Pressure, View};

/// A replica is given back only where the others would wait for at most this part of the target without it.
const RELEASE_TARGET: f64 = 0.9;
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
    let (capacity, _) = state.capacity(settings, view, target, now);
    let (release, mix) = state.capacity(settings, view, target.mul_f64(RELEASE_TARGET), now);
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
    let basis = Basis {
        minimum: settings.min_replicas,
        current,
        ready: view.ready,
        missing: view.missing,
        slow: view.slow,
        is_calm: pressure == Pressure::Calm,
        learnt: capacity,
        release,
        mix,
        level,
        rise,
        backlog: view.pending_images(),
        startup: view.startup,
    };
    inputs.arrivals_per_second = Some(level);
    inputs.expected_per_second = Some(level + rise);
    let capacity = basis.capacity();
    inputs.capacity_per_replica = capacity.map(|known| known.within_target);
    inputs.full_speed_per_replica = capacity.map(|known| known.full_speed);
    inputs.capacity_source = capacity.map_or(CapacitySource::Unknown, |known| known.source);
    inputs.terms.note(basis);

    let base = basis.wish();
    let wish = if growing && base.now <= current {
        let wish = grow(state, view, current, capacity.is_some(), now);
        inputs.terms.growth = Some(wish.now);
        wish
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

/// What a growing queue asks for that no model explains.
fn grow(state: &State, view: &View<'_>, current: u32, capacity_known: bool, now: Monotonic) -> Wish {
    if view.coming > 0 {
        return Wish::hold(current, Reason::StartingCapacity);
    }
    if view.failing >= FAILING_STARTS {
        return Wish::hold(current, Reason::ReplicasFailing);
    }
    // One that is not carried out stands, and a step from what is there is never beyond it.
    if state.last_increase.is_some_and(|last| last.carried_out && now.since(last.at) < lockout(view)) {
        return Wish::hold(current, Reason::StartingCapacity);
    }
    let step = if capacity_known { 1 } else { current.clamp(1, BLIND_STEP) };
    Wish { now: current.saturating_add(step), ..Wish::hold(current, Reason::QueueGrowing) }
}

/// How long after an increase a growing queue asks for no other: until the new replicas are there and have traffic.
/// Slower than the dead time, this feedback can't oscillate.
fn lockout(view: &View<'_>) -> Duration {
    SHORTEST_LOCKOUT.max(view.startup)
}
