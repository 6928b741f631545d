//! How many replicas: the pure kernel of the autoscaler.
//!
//! [`decide`] is called after every round of measurements and answers with a [`Decision`] and the state for the next
//! call. It has no clock, no client and no log: time is an argument and the reason is part of the answer, so a test
//! walks through an hour by adding to a number.
//!
//! # The law
//!
//! *Capacity* ([`capacity`](self::capacity::BatchLine)). A device executes a batch of `b` images in about
//! `alpha * b + tau0` seconds; the line is fitted from the replicas' own counters and inverted: the capacity is the
//! arrival rate at which requests wait for just the target. What replicas complete while their queues never empty
//! limits it, since a queue for decode cores also is one. While replicas are calm, what they complete is a capacity
//! that they have.
//!
//! *Demand*. The sum of what arrives everywhere: completed, refused, given up and newly waiting images, smoothed for a
//! few seconds. It comes from outside, so acting on it makes no loop and can't oscillate.
//!
//! *More at once.* `demand / capacity`, rounded up; or what works a backlog off in time (capped, since a backlog
//! also grows because starting takes time); or, when the queue grows although the model says that it fits, one more,
//! and doubled where nothing is known of the capacity. The last kind waits until the replicas that it ordered had
//! the time to start and to get their share of the traffic: a starting replica counts as capacity until its p90
//! start-up time or its third restart. One that no node has room for blocks further orders.
//!
//! *Fewer later.* Only what every observation of a whole window agreed on, with some air, and only while every ready
//! replica was just measured, enough are ready and no update is under way. After a restart of the operator the window
//! starts empty, so nothing is removed until a full one was seen.
//!
//! *No data is a value.* With no measurement, only old ones, or more than half of them missing, the number is held.
//! With some missing it may rise (the missing are assumed average) but not fall. The user's bounds always hold.

mod capacity;
mod decision;
mod demand;
mod observation;
mod policy;
mod stabilize;
mod state;
mod view;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use capacity::{BatchLine, CapacitySource};
pub use decision::{Decision, Inputs, Reason};
pub use observation::{
    BatchDelta, Measurement, MissingReason, Monotonic, Observation, QueueTime, Replica, ReplicaSample, Starting,
};
pub use policy::{Policy, PolicyError, PolicySettings, fresh_for};
pub use state::State;

use capacity::Capacity;
use stabilize::LastIncrease;
use view::{Pressure, View};

/// More than this part above the current number is needed before another replica is ordered, and as much below
/// before one is given back: noise around a whole number moves nothing.
const DEAD_BAND: f64 = 0.05;
/// Part of the full speed at which a backlog is worked off.
const DRAIN_SPEED: f64 = 0.95;
/// Shortest time in which a backlog must be worked off.
const SHORTEST_DRAIN: Duration = Duration::from_secs(30);
/// Shortest time between two increases that only a growing queue asks for: clients that hold their connections reach
/// new replicas within it.
const SHORTEST_LOCKOUT: Duration = Duration::from_secs(30);
/// Most replicas that a growing queue adds at once while the capacity is unknown.
const BLIND_STEP: u32 = 4;
/// Failing starts from which on a growing queue orders no more.
const FAILING_STARTS: u32 = 2;
/// A pause between two calls after which the window starts anew.
const LONGEST_GAP: Duration = Duration::from_secs(30);

/// How many replicas the fleet should have now, why, and the state for the next call.
///
/// Calling it again with the same observation at the same time gives the same number.
pub fn decide(policy: &Policy, state: State, observation: &Observation, now: Monotonic) -> (Decision, State) {
    let mut state = state;
    let view = View::new(policy, observation, now);
    let current = policy.clamp(observation.current);
    let mut inputs = state.learn(policy, &view, now);

    let wish = match view.blindness() {
        Some(reason) => Wish { now: current, later: current, reason },
        None => wish(policy, &state, &view, &mut inputs, current, now),
    };
    let gap = LONGEST_GAP.max(policy.settings().scrape_interval * 5);
    state.window.note(wish.later.max(wish.now), now, policy.settings().stabilization_window, gap);

    let (replicas, reason) = if wish.now > current {
        increase(policy, &mut state, &view, &wish, current, now)
    } else {
        decrease(policy, &state, &view, observation, &wish, current, now)
    };
    let reason = match observation.current {
        ordered if ordered < policy.settings().min_replicas && replicas == current => Reason::BelowMinimum,
        ordered if ordered > policy.settings().max_replicas && replicas == current => Reason::AboveMaximum,
        _ => reason,
    };
    (Decision { replicas, reason, inputs }, state)
}

/// What the measurements ask for, before windows, limits and the scheduler have their say.
struct Wish {
    /// The number that is needed at once.
    now: u32,
    /// The number that would do, with some air: what the window remembers.
    later: u32,
    /// Why `now` is what it is.
    reason: Reason,
}

fn wish(policy: &Policy, state: &State, view: &View<'_>, inputs: &mut Inputs, current: u32, now: Monotonic) -> Wish {
    let settings = policy.settings();
    let pressure = view.pressure(inputs.target_queue_time, settings.max_batch_size);
    let growing = pressure == Pressure::Severe || state.is_growing();
    let mut demand = state.demand.level().unwrap_or_default();
    if growing {
        // The smoothed level trails a rise; while the queue grows there is no doubt that it is one.
        demand = demand.max(view.arrivals());
    }
    inputs.arrivals_per_second = Some(demand);

    let capacity = state.capacity(settings, view, inputs.target_queue_time, now);
    let capacity = capacity.map(|known| allow_for_observed(known, pressure, demand, view));
    inputs.capacity_per_replica = capacity.map(|known| known.within_target);
    inputs.capacity_source = capacity.map_or(CapacitySource::Unknown, |known| known.source);

    let base = base_wish(policy.settings().min_replicas, view, capacity, demand, current);
    let wish = if growing && base.now <= current {
        grow(state, view, current, capacity.is_some(), now)
    } else if pressure == Pressure::Uneven && base.now <= current {
        // New replicas get their share only as clients open new connections.
        let settles = state.last_increase.is_some_and(|last| now.since(last.at) < lockout(view));
        let reason = if settles { Reason::StartingCapacity } else { Reason::LoadImbalance };
        Wish { now: current, later: current, reason }
    } else {
        base
    };
    inputs.wanted = Some(wish.now.max(wish.later));
    wish
}

/// What demand, capacity and backlog ask for.
fn base_wish(minimum: u32, view: &View<'_>, capacity: Option<Capacity>, demand: f64, current: u32) -> Wish {
    let Some(capacity) = capacity else {
        let idle = demand <= 0.0 && view.pending_images() <= 0.0;
        let later = if idle { minimum } else { current };
        let reason = if idle { Reason::OnTarget } else { Reason::UnknownCapacity };
        return Wish { now: later.min(current), later, reason };
    };
    let needed = demand / capacity.within_target;
    let drain = SHORTEST_DRAIN.max(view.startup * 2).as_secs_f64();
    let backlog = (view.pending_images() / drain).min(demand / 2.0);
    let needed_to_drain = if backlog > 0.0 { (demand + backlog) / (DRAIN_SPEED * capacity.full_speed) } else { 0.0 };
    let for_demand = rounded_up(needed, current);
    let for_backlog = rounded_up(needed_to_drain, current);
    // A missing replica may be as busy as a replica can be.
    let later = whole((needed.max(needed_to_drain) * (1.0 + DEAD_BAND)).ceil()).saturating_add(view.missing);
    Wish {
        now: for_demand.max(for_backlog),
        later: later.max(minimum),
        reason: match (for_demand > current, for_backlog > current) {
            (true, _) => Reason::DemandAboveCapacity,
            (false, true) => Reason::Backlog,
            (false, false) => Reason::OnTarget,
        },
    }
}

/// What a growing queue asks for that no model explains.
fn grow(state: &State, view: &View<'_>, current: u32, capacity_known: bool, now: Monotonic) -> Wish {
    let hold = |reason| Wish { now: current, later: current, reason };
    if view.coming > 0 {
        return hold(Reason::StartingCapacity);
    }
    if view.failing >= FAILING_STARTS {
        return hold(Reason::ReplicasFailing);
    }
    if let Some(last) = state.last_increase.filter(|last| now.since(last.at) < lockout(view)) {
        // The order was given; if it is not carried out yet, it still stands.
        let reason = if last.to > current { Reason::QueueGrowing } else { Reason::StartingCapacity };
        return Wish { now: last.to.max(current), later: current, reason };
    }
    let step = if capacity_known { 1 } else { current.clamp(1, BLIND_STEP) };
    Wish { now: current.saturating_add(step), later: current, reason: Reason::QueueGrowing }
}

/// How long after an increase a growing queue asks for no other: until the new replicas are there and have traffic.
fn lockout(view: &View<'_>) -> Duration {
    SHORTEST_LOCKOUT.max(view.startup)
}

/// Orders more, as far as the user's maximum, the growth limit and the scheduler allow.
fn increase(
    policy: &Policy,
    state: &mut State,
    view: &View<'_>,
    wish: &Wish,
    current: u32,
    now: Monotonic,
) -> (u32, Reason) {
    if view.unschedulable > 0 {
        return (current, Reason::CapacityUnavailable);
    }
    let limited = wish.now.min(LastIncrease::limit(state.last_increase, current, now));
    let replicas = policy.clamp(limited).max(current);
    if replicas == current {
        let at_maximum = current == policy.settings().max_replicas;
        return (current, if at_maximum { Reason::AtMaximum } else { wish.reason });
    }
    state.last_increase = Some(LastIncrease::note(state.last_increase, current, replicas, now));
    (replicas, wish.reason)
}

/// Removes what the whole window could do without, or holds and says why.
fn decrease(
    policy: &Policy,
    state: &State,
    view: &View<'_>,
    observation: &Observation,
    wish: &Wish,
    current: u32,
    now: Monotonic,
) -> (u32, Reason) {
    let settings = policy.settings();
    let wanted = policy.clamp(wish.later);
    if wanted >= current {
        let idle = wish.reason == Reason::OnTarget && current == settings.min_replicas;
        return (current, if idle { Reason::AtMinimum } else { wish.reason });
    }
    if view.missing > 0 {
        return (current, Reason::PartialMetrics);
    }
    if view.settling > 0 {
        return (current, Reason::ScaleDownWindow);
    }
    if observation.rolling_out {
        return (current, Reason::RollingOut);
    }
    let peak = state.window.peak(now, settings.stabilization_window).map(|peak| policy.clamp(peak));
    match peak.filter(|peak| *peak < current) {
        // Where most replicas are not ready, the few that are measured don't speak for the fleet.
        Some(peak) if view.ready * 2 < current && peak < view.ready => (current, Reason::PartialMetrics),
        Some(peak) => (peak, Reason::DemandBelowCapacity),
        None => (current, Reason::ScaleDownWindow),
    }
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

/// A count as a whole number: negative ones and NaN are 0, and there are never more replicas than `u32` holds.
pub(crate) fn whole(number: impl IntoWhole) -> u32 {
    number.into_whole()
}

/// See [`whole`].
pub(crate) trait IntoWhole {
    fn into_whole(self) -> u32;
}

impl IntoWhole for usize {
    fn into_whole(self) -> u32 {
        u32::try_from(self).unwrap_or(u32::MAX)
    }
}

impl IntoWhole for f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, which is wanted here")]
    fn into_whole(self) -> u32 {
        self as u32
    }
}
