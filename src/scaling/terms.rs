//! What each part of the law asked for and what held it, as data: for whoever explains a decision, and for metrics.

use std::time::Duration;

use super::base::Basis;
use super::decision::{Decision, Reason};
use super::observation::{Monotonic, Observation};
use super::policy::Policy;
use super::stabilize::{LastDecrease, LastIncrease};
use super::state::State;
use super::view::View;

/// How many replicas each part asked for, and the limits on how they may change; absent ones did not apply.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Terms {
    /// Replicas that were ordered when this was decided.
    pub ordered: u32,
    /// For what arrives now.
    pub demand: Option<u32>,
    /// For what will arrive by the time that a replica ordered now answers.
    pub expected: Option<u32>,
    /// To work off what waits, in time.
    pub backlog: Option<u32>,
    /// For a queue that grows against the model.
    pub growth: Option<u32>,
    /// One in place of a slow one.
    pub in_place_of_slow: u32,
    /// For the expected demand with the dead band above it: fewer are not removed.
    pub with_air: Option<u32>,
    /// The fewest with which requests would wait for less than nine tenths of the target: fewer are not removed.
    pub release: Option<u32>,
    /// The most that any observation of the stabilization window asked for; none until it saw a whole one.
    pub window: Option<u32>,
    /// The most that is remembered because peaks recur.
    pub remembered_peak: Option<u32>,
    /// The most that may be ordered now: growth is limited.
    pub most_now: u32,
    /// The fewest that may be left now: shrinking is limited.
    pub fewest_now: u32,
    /// The soonest that one may be removed, if the load falls at once.
    pub fewer_in: Option<Duration>,
    /// For how long nothing is removed after a panic.
    pub panic_left: Option<Duration>,
    /// Ready, without a usable measurement.
    pub missing: u32,
    /// Ready for too short a time to have been measured.
    pub settling: u32,
    /// Starting, but restarted too often to be expected.
    pub failing: u32,
    /// Without a node.
    pub unschedulable: u32,
    /// An update is under way.
    pub rolling_out: bool,
    pub(super) basis: Option<Basis>,
}

/// A part of the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// What arrives now.
    Demand,
    /// What will arrive by the time that a replica answers.
    Trend,
    /// What waits.
    Backlog,
    /// A queue that grows against the model.
    Growth,
    /// A replica far slower than the others.
    SlowReplica,
    /// The dead band: noise around a whole number moves nothing.
    DeadBand,
    /// The prediction for one replica fewer.
    Release,
    /// The user's minimum.
    Minimum,
    /// The user's maximum.
    Maximum,
    /// The limit on how fast orders grow and shrink.
    StepLimit,
    /// The stabilization window.
    Window,
    /// The memory for peaks that recur.
    RecurringPeaks,
    /// The minute after a panic.
    Panic,
    /// Replicas that became ready a moment ago.
    Settling,
    /// Replicas that start, or have just started.
    Starting,
    /// Replicas that fail to start.
    Failing,
    /// Replicas that no node takes.
    Scheduler,
    /// An update.
    Rollout,
    /// Measurements that are missing.
    Metrics,
    /// A capacity that is not known.
    Capacity,
    /// Load that is not spread.
    Imbalance,
}

/// Something that keeps the number from rising or from falling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hold {
    /// What holds.
    pub term: Term,
    /// How many replicas it is about: kept, allowed, or concerned.
    pub replicas: Option<u32>,
    /// For how much longer, where that is known.
    pub left: Option<Duration>,
}

impl Terms {
    /// Notes what the measurements ask for.
    pub(super) fn note(&mut self, basis: Basis) {
        self.basis = Some(basis);
        if let Some(asked) = basis.asked() {
            self.demand = Some(asked.for_level);
            self.expected = Some(asked.for_expected);
            self.backlog = Some(asked.for_backlog);
            self.in_place_of_slow = asked.in_place;
            self.with_air = Some(asked.with_air);
            self.release = Some(asked.foreseen);
        }
    }

    /// Notes the limits that hold before this decision is made.
    pub(super) fn limit(
        &mut self,
        policy: &Policy,
        state: &State,
        view: &View<'_>,
        observation: &Observation,
        now: Monotonic,
    ) {
        let window = policy.settings().stabilization_window;
        let remembered = state.hold.length(window);
        let current = policy.clamp(observation.current);
        self.ordered = observation.current;
        self.window = state.window.peak(now, window, window);
        self.remembered_peak = state.peaks.peak(now, window, remembered);
        self.most_now = LastIncrease::limit(state.last_increase, current, now);
        self.fewest_now = LastDecrease::limit(state.last_decrease, current, now);
        self.panic_left = state.panic_until.map(|until| until.since(now)).filter(|left| !left.is_zero());
        (self.missing, self.settling) = (view.missing, view.settling);
        (self.failing, self.unschedulable) = (view.failing, view.unschedulable);
        self.rolling_out = observation.rolling_out;
    }
}

/// How long until one of `replicas` may be removed, if the load falls at once.
pub(super) fn soonest_decrease(state: &State, policy: &Policy, replicas: u32, now: Monotonic) -> Duration {
    let window = policy.settings().stabilization_window;
    let of_window = state.window.falls_below(replicas, now, window, window);
    let of_peaks = state.peaks.falls_below(replicas, now, window, state.hold.length(window));
    let panic = state.panic_until.map_or(Duration::ZERO, |until| until.since(now));
    of_window.max(of_peaks).max(panic)
}

impl Decision {
    /// The part of the law that made the number what it is.
    pub fn decided_by(&self) -> Term {
        match self.reason {
            Reason::DemandAboveCapacity => Term::Demand,
            Reason::DemandRising => Term::Trend,
            Reason::Backlog => Term::Backlog,
            Reason::QueueGrowing => Term::Growth,
            Reason::SlowReplica => Term::SlowReplica,
            Reason::AtMinimum | Reason::BelowMinimum => Term::Minimum,
            Reason::AtMaximum | Reason::AboveMaximum => Term::Maximum,
            Reason::NoReadyReplicas | Reason::NoData | Reason::StaleMetrics | Reason::PartialMetrics => Term::Metrics,
            Reason::RecurringPeaks => Term::RecurringPeaks,
            Reason::RollingOut => Term::Rollout,
            Reason::StartingCapacity => Term::Starting,
            Reason::CapacityUnavailable => Term::Scheduler,
            Reason::ReplicasFailing => Term::Failing,
            Reason::LoadImbalance => Term::Imbalance,
            Reason::UnknownCapacity => Term::Capacity,
            Reason::ScaleDownWindow => self.holder_of_decrease(),
            Reason::DemandBelowCapacity if self.replicas == self.inputs.terms.fewest_now => Term::StepLimit,
            Reason::OnTarget | Reason::TargetBelowBatchFloor | Reason::DemandBelowCapacity => self.keeper(),
        }
    }

    /// What keeps the number from rising as far as was asked, or from falling now; the gravest first.
    pub fn holds(&self, policy: &Policy) -> Vec<Hold> {
        let (terms, inputs, settings) = (&self.inputs.terms, &self.inputs, policy.settings());
        let hold = |term, replicas, left| Hold { term, replicas, left };
        let count = |term: Term, count: u32| (count > 0).then(|| hold(term, Some(count), None));
        let wanted = [terms.demand, terms.expected, terms.backlog, terms.growth].into_iter().flatten().max();
        let mut holds = Vec::new();
        if self.reason.has_metrics() {
            holds.extend(count(Term::Metrics, terms.missing));
        } else {
            holds.push(hold(Term::Metrics, Some(inputs.ready.saturating_sub(inputs.measured)), None));
        }
        holds.extend(count(Term::Scheduler, terms.unschedulable));
        holds.extend(count(Term::Failing, terms.failing));
        holds.extend(
            wanted
                .filter(|wanted| *wanted > settings.max_replicas)
                .map(|wanted| hold(Term::Maximum, Some(wanted), None)),
        );
        holds.extend(
            wanted
                .filter(|wanted| (*wanted).min(settings.max_replicas) > terms.most_now)
                .map(|_| hold(Term::StepLimit, Some(terms.most_now), None)),
        );
        if matches!(self.reason, Reason::StartingCapacity) {
            holds.push(hold(Term::Starting, Some(inputs.starting), None));
        }
        if self.reason == Reason::LoadImbalance {
            holds.push(hold(Term::Imbalance, None, None));
        }
        if self.reason == Reason::UnknownCapacity {
            holds.push(hold(Term::Capacity, None, None));
        }
        // Only what keeps replicas that the demand does without holds them.
        if self.replicas > settings.min_replicas && self.needs_fewer() {
            holds.extend(terms.panic_left.map(|left| hold(Term::Panic, None, Some(left))));
            holds.extend(count(Term::Settling, terms.settling));
            holds.extend(terms.rolling_out.then(|| hold(Term::Rollout, None, None)));
            let keeps = |peak: Option<u32>| peak.is_none_or(|peak| peak >= self.replicas);
            // Where peaks recur they are remembered for longer than the window, and the time left is theirs.
            let is_longer = inputs.remembered > settings.stabilization_window;
            let (by_window, by_peaks) = (keeps(terms.window), is_longer && keeps(terms.remembered_peak));
            if by_window {
                holds.push(hold(Term::Window, terms.window, terms.fewer_in.filter(|_| !by_peaks)));
            }
            if by_peaks {
                holds.push(hold(Term::RecurringPeaks, terms.remembered_peak, terms.fewer_in));
            } else if !by_window && terms.fewest_now >= self.replicas {
                holds.push(hold(Term::StepLimit, Some(terms.fewest_now), None));
            }
        }
        holds
    }

    /// Whether the measurements ask for fewer than there are, before windows and limits.
    fn needs_fewer(&self) -> bool {
        self.inputs.terms.basis.is_some_and(|basis| basis.wish().later < self.replicas)
    }

    /// What holds a decrease that the measurements ask for.
    fn holder_of_decrease(&self) -> Term {
        let terms = &self.inputs.terms;
        if terms.settling > 0 {
            Term::Settling
        } else if terms.panic_left.is_some() {
            Term::Panic
        } else if terms.window.is_some_and(|peak| peak < self.replicas) {
            Term::StepLimit
        } else {
            Term::Window
        }
    }

    /// What keeps a number that is neither raised nor held: the first part that asks for so many.
    fn keeper(&self) -> Term {
        let terms = &self.inputs.terms;
        let asks = |part: Option<u32>| part.is_some_and(|part| part >= self.replicas);
        [
            (Term::Demand, terms.demand),
            (Term::Trend, terms.expected),
            (Term::Backlog, terms.backlog),
            (Term::DeadBand, terms.with_air),
            (Term::Release, terms.release),
        ]
        .into_iter()
        .find_map(|(term, part)| asks(part).then_some(term))
        .unwrap_or(if terms.in_place_of_slow > 0 { Term::SlowReplica } else { Term::Minimum })
    }
}

impl Term {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Demand => "Demand",
            Self::Trend => "Trend",
            Self::Backlog => "Backlog",
            Self::Growth => "Growth",
            Self::SlowReplica => "SlowReplica",
            Self::DeadBand => "DeadBand",
            Self::Release => "Release",
            Self::Minimum => "Minimum",
            Self::Maximum => "Maximum",
            Self::StepLimit => "StepLimit",
            Self::Window => "Window",
            Self::RecurringPeaks => "RecurringPeaks",
            Self::Panic => "Panic",
            Self::Settling => "Settling",
            Self::Starting => "Starting",
            Self::Failing => "Failing",
            Self::Scheduler => "Scheduler",
            Self::Rollout => "Rollout",
            Self::Metrics => "Metrics",
            Self::Capacity => "Capacity",
            Self::Imbalance => "Imbalance",
        }
    }
}
