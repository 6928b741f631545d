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
//! *Demand* ([`demand`]). The sum of what arrives everywhere: completed, refused, given up and newly waiting images,
//! smoothed until enough of them were seen, with the trend over the time that a start takes. It comes from outside, so
//! acting on it makes no loop and can't oscillate.
//!
//! *More at once.* `demand / capacity`, rounded up; or what works a backlog off in time (capped, since a backlog
//! also grows because starting takes time); or, when the queue grows although the model says that it fits, one more,
//! and doubled where nothing is known of the capacity. The last kind waits until the replicas that it ordered had
//! the time to start and to get their share of the traffic: a starting replica counts as capacity until its p90
//! start-up time or its third restart. One that no node has room for blocks further orders.
//!
//! *Fewer later.* Only what every observation of a whole window agreed on, with some air, and only while every ready
//! replica was just measured, enough are ready and no update is under way; at most half at once. The window is the
//! user's, and up to four times as long while peaks come back soon after a decrease ([`hold`]). After a restart of the
//! operator it starts empty, so nothing is removed until a full one was seen.
//!
//! *Who orders may be somebody else.* Where a decision is only shown, or carried out late, it is made from what is there
//! all the same, so it does not grow while nothing comes of it. An increase stands until a whole window asked for less, as
//! the replicas would that it orders; a decrease that nobody carried out is no evidence for longer or shorter windows.
//!
//! *No data is a value.* With no measurement, only old ones, or more than half of them missing, the number is held.
//! With some missing it may rise (the missing are assumed average) but not fall. The user's bounds always hold.

mod base;
mod capacity;
mod changes;
mod decision;
mod demand;
mod fresh;
mod health;
mod hold;
mod mix;
mod observation;
mod policy;
mod speed;
mod stabilize;
mod standing;
mod state;
mod terms;
mod view;
mod wish;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use capacity::{BatchLine, CapacitySource};
pub use changes::{Changes, Fewer, More};
pub use decision::{Decision, Inputs, Reason};
pub use observation::{
    BatchDelta, Measurement, MissingReason, Monotonic, Observation, QueueTime, Replica, ReplicaSample, Starting,
};
pub use policy::{Policy, PolicyError, PolicySettings, fresh_for};
pub use standing::{Standing, standings};
pub use state::State;
pub use terms::{Hold, Term, Terms};

use base::Wish;
use stabilize::{LastDecrease, LastIncrease};
use view::View;
use wish::wish;

/// A pause between two calls after which the window starts anew.
const LONGEST_GAP: Duration = Duration::from_secs(30);

/// How many replicas the fleet should have now, why, and the state for the next call.
///
/// Calling it again with the same observation at the same time gives the same number.
pub fn decide(policy: &Policy, state: State, observation: &Observation, now: Monotonic) -> (Decision, State) {
    let mut state = state;
    let settings = policy.settings();
    let mut view = View::new(policy, observation, now);
    let current = policy.clamp(observation.current);
    state.follow(observation.current, now);
    let mut inputs = state.learn(policy, &mut view, now);

    let wish = if let Some(reason) = view.blindness() {
        Wish::hold(current, reason)
    } else {
        let wish = wish(policy, &mut state, &view, &mut inputs, current, now);
        state.hold.judge(wish.lasting, current, now, settings.stabilization_window, view.startup);
        wish
    };
    let gap = LONGEST_GAP.max(settings.scrape_interval * 5);
    let window = settings.stabilization_window;
    state.window.note(wish.later.max(wish.now), now, window, gap);
    state.peaks.note(wish.lasting, now, window * hold::LONGEST, gap);

    inputs.terms.limit(policy, &state, &view, observation, now);

    let is_held = view.blindness().is_some() || view.unschedulable > 0;
    let standing = state.standing(policy, current, now).filter(|_| !is_held);
    let (replicas, reason) = if wish.now > current {
        increase(policy, &mut state, &view, &wish, standing, current, now)
    } else if let Some(standing) = standing {
        (standing, Reason::ScaleDownWindow)
    } else {
        decrease(policy, &mut state, &view, observation, &wish, current, now)
    };
    let reason = match observation.current {
        ordered if ordered < settings.min_replicas && replicas == current => Reason::BelowMinimum,
        ordered if ordered > settings.max_replicas && replicas == current => Reason::AboveMaximum,
        _ if matches!(reason, Reason::OnTarget | Reason::AtMinimum) && misses_floor(settings, &inputs) => {
            Reason::TargetBelowBatchFloor
        }
        _ => reason,
    };
    inputs.remembered = state.hold.length(settings.stabilization_window);
    inputs.terms.fewer_in =
        (replicas > settings.min_replicas).then(|| terms::soonest_decrease(&state, policy, replicas, now));
    (Decision { replicas, reason, inputs }, state)
}

/// Requests wait longer than the user's target, and would with any number of replicas: half an execution's fixed cost.
fn misses_floor(settings: &PolicySettings, inputs: &Inputs) -> bool {
    let target = settings.target_queue_time;
    inputs.target_queue_time > target && inputs.queue_time.is_some_and(|wait| wait > target)
}

/// Orders more, as far as the user's maximum, the growth limit and the scheduler allow.
fn increase(
    policy: &Policy,
    state: &mut State,
    view: &View<'_>,
    wish: &Wish,
    standing: Option<u32>,
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
    if let Some(standing) = standing.filter(|standing| *standing > replicas) {
        return (standing, wish.reason);
    }
    state.last_increase = Some(LastIncrease::note(state.last_increase, current, replicas, now));
    (replicas, wish.reason)
}

/// Removes what the whole window could do without, or holds and says why.
fn decrease(
    policy: &Policy,
    state: &mut State,
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
    if view.settling > 0 || state.panic_until.is_some_and(|until| now < until) {
        return (current, Reason::ScaleDownWindow);
    }
    if observation.rolling_out {
        return (current, Reason::RollingOut);
    }
    let window = settings.stabilization_window;
    let of_window = state.window.peak(now, window, window).map_or(current, |peak| policy.clamp(peak));
    if of_window >= current {
        return (current, Reason::ScaleDownWindow);
    }
    let length = state.hold.length(window);
    let peak = state.peaks.peak(now, window, length).map_or(of_window, |peak| policy.clamp(peak).max(of_window));
    if peak >= current {
        return (current, Reason::RecurringPeaks);
    }
    // Where most replicas are not ready, the few that are measured don't speak for the fleet.
    if view.ready * 2 < current && peak < view.ready {
        return (current, Reason::PartialMetrics);
    }
    let replicas = peak.max(LastDecrease::limit(state.last_decrease, current, now)).min(current);
    if replicas == current {
        return (current, Reason::ScaleDownWindow);
    }
    state.last_decrease = Some(LastDecrease::note(state.last_decrease, current, now));
    state.hold.decreased(current, replicas, now, window);
    (replicas, Reason::DemandBelowCapacity)
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
