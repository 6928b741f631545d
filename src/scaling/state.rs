//! What the law remembers between two calls, all of it bounded: the demand's level, the speed of each class of
//! replicas, the window of wishes and the last increase.

use std::collections::BTreeMap;
use std::time::Duration;

use super::capacity::{BatchLine, Capacity, CapacitySource, ClassModel};
use super::decision::Inputs;
use super::demand::Demand;
use super::fresh::Fresh;
use super::health;
use super::hold::Hold;
use super::mix::Mix;
use super::observation::{BatchDelta, Monotonic};
use super::policy::{Policy, PolicySettings};
use super::speed::Speed;
use super::stabilize::{LastDecrease, LastIncrease, Window};
use super::view::{Pressure, View};
use super::whole;

/// Classes whose speed is remembered; a rollout makes a new one.
pub(super) const MOST_CLASSES: usize = 8;
/// Rounds in a row with most queues above the target that make a growing queue.
pub(super) const PRESSED_ROUNDS: u32 = 2;
/// Part of an old version's speed that a new one is assumed to have until it is measured.
const NEW_CLASS_SPEED: f64 = 0.8;

/// Opaque to the caller, which keeps it between calls. An empty one is a right start: nothing is removed until a full
/// window was seen, and nothing else is lost.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    pub(super) demand: Demand,
    pub(super) window: Window,
    /// What the demand alone asked for, remembered for longer where peaks recur.
    pub(super) peaks: Window,
    pub(super) hold: Hold,
    pub(super) last_increase: Option<LastIncrease>,
    pub(super) last_decrease: Option<LastDecrease>,
    /// Replicas that were ordered at the last look.
    ordered: Option<u32>,
    /// Far more came than the replicas could take: nothing is removed until then.
    pub(super) panic_until: Option<Monotonic>,
    classes: BTreeMap<String, Class>,
    /// The newest measurement of each replica that the fit contains, so that none counts twice.
    learnt: BTreeMap<String, Monotonic>,
    /// Rounds in a row in which most queues were above the target.
    pressed_rounds: u32,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Class {
    model: ClassModel,
    used: Monotonic,
}

impl State {
    /// Takes in how many are ordered, by whomever.
    pub(super) fn follow(&mut self, ordered: u32, now: Monotonic) {
        let before = self.ordered.replace(ordered);
        self.last_increase = LastIncrease::follow(self.last_increase, before, ordered, now);
    }

    /// The last increase while it waits to be carried out. It stands for as long as the replicas would, had they come: a
    /// number that is only shown goes up and down no more often than one that is acted on.
    pub(super) fn standing(&self, policy: &Policy, current: u32, now: Monotonic) -> Option<u32> {
        let window = policy.settings().stabilization_window;
        let last = self.last_increase.filter(|last| !last.carried_out)?;
        let is_asked_for = self.window.peak(now, window, window).is_none_or(|peak| peak >= last.to);
        Some(policy.clamp(last.to)).filter(|to| is_asked_for && *to > current)
    }

    /// Marks the replicas that are far slower than what is known of their class.
    pub(super) fn mark_slow(&self, view: &mut View<'_>) {
        health::mark_slow(view, |class| self.classes.get(class)?.model.line());
    }

    /// Takes in what is new in the view, and starts the inputs of the decision with what is known.
    pub(super) fn learn(&mut self, policy: &Policy, view: &mut View<'_>, now: Monotonic) -> Inputs {
        let settings = policy.settings();
        self.mark_slow(view);
        let line = self.line(view);
        let target = line.map_or(settings.target_queue_time, |line| line.attainable_target(settings.target_queue_time));

        let was_pressed = self.pressed_rounds > 0;
        if let Some(newest) = view.newest()
            && self.demand.update(view.arrivals(), newest, settings.scrape_interval)
        {
            let pressed =
                matches!(view.pressure(target, settings.max_batch_size), Pressure::Severe | Pressure::Moderate);
            self.pressed_rounds = if pressed { self.pressed_rounds.saturating_add(1) } else { 0 };
        }
        self.learn_speeds(view, target, settings.max_batch_size, was_pressed, now);

        let (queue_time, queue_time_p95) = view.queue_time();
        Inputs {
            arrivals_per_second: self.demand.level().filter(|_| !view.fresh.is_empty()),
            batch_line: self.line(view),
            queue_time,
            queue_time_p95,
            target_queue_time: target,
            pending_images: (!view.fresh.is_empty()).then(|| view.pending_images()),
            ready: view.ready,
            measured: whole(view.fresh.len()),
            starting: view.coming,
            slow: view.slow,
            wait_to_execution: view.wait_to_execution(),
            trend_per_second: self.demand.trend(),
            slow_replicas: view.fresh.iter().filter(|fresh| fresh.is_slow).map(|fresh| fresh.name.to_owned()).collect(),
            startup: view.startup,
            ..Inputs::default()
        }
    }

    /// Whether the queue has been above the target for two rounds.
    pub(super) fn is_growing(&self) -> bool {
        self.pressed_rounds >= PRESSED_ROUNDS
    }

    /// What a replica of each class can take, and how many there are of it among the measured ones.
    fn known(
        &self,
        settings: &PolicySettings,
        view: &View<'_>,
        target: Duration,
        now: Monotonic,
    ) -> Vec<(Capacity, u32)> {
        let of = |class: &Class| class.model.capacity(target, settings.max_batch_size, now);
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for fresh in view.healthy() {
            *counts.entry(fresh.class).or_default() += 1;
        }
        counts.into_iter().filter_map(|(class, count)| Some((self.classes.get(class).and_then(of)?, count))).collect()
    }

    /// What one replica can take, the mean over the measured ones, each by its class; and what those take one by one.
    pub(super) fn capacity(
        &self,
        settings: &PolicySettings,
        view: &View<'_>,
        target: Duration,
        now: Monotonic,
    ) -> (Option<Capacity>, Mix) {
        let known = self.known(settings, view, target, now);
        if known.is_empty() {
            let of = |class: &Class| class.model.capacity(target, settings.max_batch_size, now);
            let newest = self.classes.values().filter(|class| class.used < now).max_by_key(|class| class.used);
            let assumed = newest.and_then(of).map(|old| Capacity {
                within_target: NEW_CLASS_SPEED * old.within_target,
                full_speed: NEW_CLASS_SPEED * old.full_speed,
                source: old.source,
            });
            return (assumed, Mix::default());
        }
        let replicas: f64 = known.iter().map(|(_, replicas)| f64::from(*replicas)).sum();
        let sum =
            |of: fn(&Capacity) -> f64| known.iter().map(|(one, replicas)| of(one) * f64::from(*replicas)).sum::<f64>();
        let mean = |of: fn(&Capacity) -> f64| sum(of) / replicas;
        let mean = Capacity {
            within_target: mean(|capacity| capacity.within_target),
            full_speed: mean(|capacity| capacity.full_speed),
            // The weakest source speaks for the mean.
            source: known.iter().map(|(capacity, _)| capacity.source).max().unwrap_or(CapacitySource::Unknown),
        };
        (Some(mean), Mix::new(&known))
    }

    fn learn_speeds(
        &mut self,
        view: &View<'_>,
        target: Duration,
        max_batch_size: u32,
        was_pressed: bool,
        now: Monotonic,
    ) {
        let unlike = self.unlike(view);
        for (fresh, is_unlike) in view.fresh.iter().zip(unlike) {
            let class = self.classes.entry(fresh.class.to_owned()).or_default();
            class.used = now;
            let taken = fresh.measurement.taken;
            let is_new = self.learnt.insert(fresh.name.to_owned(), taken).is_none_or(|before| before < taken);
            if !is_new || fresh.measurement.tainted || fresh.is_slow || is_unlike {
                continue;
            }
            let size = |delta: &BatchDelta| BatchDelta { size: weighted_size(delta.size), ..*delta };
            if !fresh.has_means_only() {
                class.model.learn(&fresh.measurement.batches);
            } else if fresh.has_mixed_batches(f64::from(max_batch_size)) {
                class.model.learn_roughly(&fresh.measurement.batches);
            } else {
                class.model.learn(&fresh.measurement.batches.iter().map(size).collect::<Vec<_>>());
            }
            // In the first round of a rise the replica was busy for only a part of the interval.
            if was_pressed && fresh.is_saturated(target) {
                class.model.saturated_at(fresh.measurement.completed_per_second, now);
            }
        }
        self.learnt.retain(|name, _| view.fresh.iter().any(|fresh| fresh.name == name));
        while self.classes.len() > MOST_CLASSES {
            let oldest = self.classes.iter().min_by_key(|(_, class)| class.used).map(|(name, _)| name.clone());
            oldest.map(|name| self.classes.remove(&name));
        }
    }

    /// The replicas that are far slower than the others of their class, as far as that is too young to say so; and takes back
    /// what a young one says where it is of such a replica.
    fn unlike(&mut self, view: &View<'_>) -> Vec<bool> {
        let speed = |fresh: &Fresh<'_>| Speed::of(&fresh.measurement.batches).filter(|_| !fresh.measurement.tainted);
        let mut rounds: BTreeMap<&str, Vec<(usize, Speed)>> = BTreeMap::new();
        for (index, fresh) in view.fresh.iter().enumerate() {
            let class = self.classes.get(fresh.class);
            if class.is_none_or(|class| class.model.is_young()) {
                rounds.entry(fresh.class).or_default().extend(speed(fresh).map(|speed| (index, speed)));
            }
        }
        let mut unlike = vec![false; view.fresh.len()];
        for (class, round) in rounds {
            if let Some(class) = self.classes.get_mut(class) {
                class.model.doubt(round.iter().map(|(_, speed)| speed));
            }
            for (own, speed) in &round {
                let others = round.iter().filter(|(other, _)| other != own).map(|(_, speed)| speed);
                if let Some(unlike) = unlike.get_mut(*own) {
                    *unlike = speed.is_slower_than_most(others);
                }
            }
        }
        unlike
    }

    /// The line of the class that most of the measured replicas have.
    fn line(&self, view: &View<'_>) -> Option<BatchLine> {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for fresh in &view.fresh {
            *counts.entry(fresh.class).or_default() += 1;
        }
        let (largest, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        self.classes.get(largest)?.model.line()
    }
}

/// The batch size that goes with a mean execution time in which each request counts its whole batch: larger batches
/// count more. Batches of requests that arrive at random are one larger by that measure, but for those of one.
fn weighted_size(mean: f64) -> f64 {
    mean + 1.0 - 1.0 / mean.max(1.0)
}
