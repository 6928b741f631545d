//! What demand, trend and backlog ask for over the capacity: a function of a few numbers, which are kept with the
//! decision, so that "what would change it" is asked of the very code that decided.

use std::time::Duration;

use super::capacity::{Capacity, CapacitySource};
use super::decision::Reason;
use super::mix::Mix;
use super::whole;

/// More than this part above the current number is needed before another replica is ordered, and as much below
/// before one is given back: noise around a whole number moves nothing.
const DEAD_BAND: f64 = 0.05;
/// Part of the full speed at which a backlog is worked off.
const DRAIN_SPEED: f64 = 0.95;
/// Shortest time in which a backlog must be worked off. Working it off sooner costs more than it brings: what was
/// ordered for it stays for the whole window.
const SHORTEST_DRAIN: Duration = Duration::from_secs(30);
/// A backlog counts for at most this part of the demand: it also grows because starting takes time, and an uncapped
/// one orders many times what is needed.
const MOST_BACKLOG: f64 = 0.5;

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

/// What a wish is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Basis {
    /// The user's minimum.
    pub(super) minimum: u32,
    /// Replicas that are ordered, within the user's bounds.
    pub(super) current: u32,
    pub(super) ready: u32,
    pub(super) missing: u32,
    pub(super) slow: u32,
    /// Whether all requests wait for less than half the target.
    pub(super) is_calm: bool,
    /// What a replica takes, as far as was learnt.
    pub(super) learnt: Option<Capacity>,
    /// The same while requests wait for somewhat less than the target.
    pub(super) release: Option<Capacity>,
    /// The same of each kind of replica, where they are unlike.
    pub(super) mix: Mix,
    /// Images per second, now.
    pub(super) level: f64,
    /// What the trend adds until a replica that is ordered now answers.
    pub(super) rise: f64,
    /// Images that wait, and are worked off in addition.
    pub(super) backlog: f64,
    /// How long a start takes.
    pub(super) startup: Duration,
}

/// How many replicas each part asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asked {
    pub(super) for_level: u32,
    pub(super) for_expected: u32,
    pub(super) for_backlog: u32,
    /// The expected demand with some air, and the fewest that would do without one of them, waiting for less than the
    /// target.
    pub(super) with_air: u32,
    pub(super) foreseen: u32,
    /// In place of a slow one.
    pub(super) in_place: u32,
    /// The backlog with some air.
    backlog_with_air: u32,
}

impl Basis {
    /// What a replica takes. While nothing waits, replicas have at least the capacity that they are using, whatever
    /// the model promises: few clients that wait for their answers keep a replica busy without ever queueing.
    pub(super) fn capacity(&self) -> Option<Capacity> {
        let used = self.level / f64::from(self.ready.max(1));
        self.learnt.map(|known| {
            if self.is_calm && used > known.within_target {
                let full_speed = known.full_speed.max(used);
                Capacity { within_target: used, full_speed, source: CapacitySource::Observed }
            } else {
                known
            }
        })
    }

    /// What each part asks for; none while the capacity is not known.
    pub(super) fn asked(&self) -> Option<Asked> {
        let capacity = self.capacity()?;
        let needed = |rate: f64| rate / capacity.within_target;
        let expected = needed(self.level + self.rise);
        let draining = self.draining(capacity);
        let with_air = air(expected);
        // Without one of them, whichever it is, the others would still be within the target.
        let of_mean = self.release.map_or(0, |release| whole((self.level / release.within_target.max(1e-9)).ceil()));
        let foreseen = of_mean.max(self.mix.fewest(self.level));
        Some(Asked {
            for_level: rounded_up(needed(self.level), self.current),
            for_expected: rounded_up(expected, self.current),
            for_backlog: rounded_up(draining, self.current),
            with_air,
            foreseen: if capacity.source == CapacitySource::Observed { with_air } else { foreseen },
            // One replica far slower than its class does nothing that counts; more of them are a fault that no order
            // mends.
            in_place: self.slow.min(1),
            backlog_with_air: air(draining),
        })
    }

    /// All parts together.
    pub(super) fn wish(&self) -> Wish {
        let current = self.current;
        let Some(asked) = self.asked() else {
            let idle = self.level <= 0.0 && self.backlog <= 0.0;
            let later = if idle { self.minimum } else { current };
            let reason = if idle { Reason::OnTarget } else { Reason::UnknownCapacity };
            return Wish { now: later.min(current), later, lasting: later, reason };
        };
        // A missing replica may be as busy as a replica can be.
        let others = self.missing.saturating_add(asked.in_place);
        let lasting = asked.with_air.max(asked.foreseen).saturating_add(others).max(self.minimum);
        let later = lasting.max(asked.backlog_with_air.saturating_add(others));
        let needed = asked.for_expected.max(asked.for_backlog);
        let is_above = |part: u32| part > current;
        Wish {
            now: needed.saturating_add(if needed > 1 { asked.in_place } else { 0 }),
            later,
            lasting,
            reason: match (is_above(asked.for_level), is_above(asked.for_expected), is_above(asked.for_backlog)) {
                (true, ..) => Reason::DemandAboveCapacity,
                (_, true, _) => Reason::DemandRising,
                (_, _, true) => Reason::Backlog,
                _ if needed > 1 && needed + asked.in_place > current => Reason::SlowReplica,
                _ => Reason::OnTarget,
            },
        }
    }

    /// How many replicas work off what waits in time, beside the demand.
    fn draining(&self, capacity: Capacity) -> f64 {
        if self.backlog <= 0.0 {
            return 0.0;
        }
        let time = SHORTEST_DRAIN.max(self.startup * 2).as_secs_f64();
        let backlog = (self.backlog / time).min(self.level * MOST_BACKLOG);
        (self.level + backlog) / (DRAIN_SPEED * capacity.full_speed)
    }
}

fn air(replicas: f64) -> u32 {
    whole((replicas * (1.0 + DEAD_BAND)).ceil())
}

/// Rounds up, but not for a dead band above the current number.
fn rounded_up(needed: f64, current: u32) -> u32 {
    let has = f64::from(current);
    if needed > has && needed <= has * (1.0 + DEAD_BAND) { current } else { whole((needed - 1e-9).ceil()) }
}
