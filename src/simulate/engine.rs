//! Discrete events: arrivals in their order, and a heap of everything else that is to happen.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::arrivals::Arrivals;
use super::fleet::Fleet;
use super::meter::Meter;
use super::random::{Random, Stream};
use super::report::RunReport;
use super::scaler::{Autoscaler, Seen};
use super::scenario::Scenario;
use super::server::Next;

/// Requests that still wait when the load ends get this long.
const AFTERWARDS_SECONDS: f64 = 60.0;

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Finish(usize),
    Look(usize),
    Ready(usize),
    Leave(usize),
    Sample,
    Decide,
    Second,
    Reset,
    Restart,
    Sicken,
    Heal,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Event {
    at: f64,
    /// Ties are broken by the order of planning, so that a run is the same every time.
    number: u64,
    what: What,
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first; the earliest is to come first.
        other.at.total_cmp(&self.at).then(other.number.cmp(&self.number))
    }
}

struct Engine<'a> {
    scenario: &'a Scenario,
    fleet: Fleet<'a>,
    heap: BinaryHeap<Event>,
    planned: u64,
    meter: Meter,
    faults: Random,
    /// The replica that is or was slow.
    sick: Option<usize>,
}

/// Runs one policy on one set of arrivals.
pub(super) fn run(scenario: &Scenario, arrivals: &Arrivals, autoscaler: &mut dyn Autoscaler, seed: u64) -> RunReport {
    let replicas = autoscaler.initial(scenario).clamp(scenario.min_replicas, scenario.max_replicas);
    let mut engine = Engine {
        scenario,
        fleet: Fleet::new(scenario, replicas, seed),
        heap: BinaryHeap::new(),
        planned: 0,
        meter: Meter::new(scenario, arrivals),
        faults: Random::new(seed, Stream::Faults),
        sick: None,
    };
    let mut phase = Random::new(seed, Stream::Phase);
    let rhythm = autoscaler.rhythm();
    engine.plan(phase.unit() * rhythm.sample_every, What::Sample);
    engine.plan(phase.unit() * rhythm.decide_every, What::Decide);
    engine.plan(0.0, What::Second);
    engine.plan_faults();

    let mut moments = arrivals.moments.iter().copied().peekable();
    let mut events: u64 = 0;
    loop {
        let next = engine.heap.peek().map_or(f64::INFINITY, |event| event.at);
        if let Some(now) = moments.next_if(|moment| *moment < next) {
            engine.arrive(now);
        } else if let Some(event) = engine.heap.pop() {
            if event.at > arrivals.end + AFTERWARDS_SECONDS {
                break;
            }
            engine.happen(event, autoscaler, arrivals.end);
        } else {
            break;
        }
        events += 1;
    }
    let gpu_seconds = engine.fleet.gpu_seconds(arrivals.end);
    engine.meter.report(events, gpu_seconds)
}

impl Engine<'_> {
    fn plan(&mut self, at: f64, what: What) {
        if at.is_finite() {
            self.planned += 1;
            self.heap.push(Event { at, number: self.planned, what });
        }
    }

    fn plan_faults(&mut self) {
        let faults = &self.scenario.faults;
        let planned = [
            faults.counter_reset.map(|at| (at, What::Reset)),
            faults.restart.map(|at| (at, What::Restart)),
            faults.sick.map(|sick| (sick.from, What::Sicken)),
            faults.sick.map(|sick| (sick.to, What::Heal)),
        ];
        for (at, what) in planned.into_iter().flatten() {
            self.plan(at, what);
        }
    }

    fn arrive(&mut self, now: f64) {
        let Some(id) = self.fleet.route() else {
            self.meter.refused += 1;
            return;
        };
        match self.fleet.servers[id].arrive(now, &self.scenario.server, &mut self.meter.waits) {
            Some(next) => self.follow(id, next),
            None => self.meter.refused += 1,
        }
    }

    fn follow(&mut self, id: usize, next: Next) {
        match next {
            Next::Finish(at) => self.plan(at, What::Finish(id)),
            Next::Look(at) => self.plan(at, What::Look(id)),
            Next::Nothing => {}
        }
    }

    fn happen(&mut self, event: Event, autoscaler: &mut dyn Autoscaler, end: f64) {
        let now = event.at;
        let spec = &self.scenario.server;
        match event.what {
            What::Finish(id) => {
                let next = self.fleet.servers[id].finish(now, spec, &mut self.meter.waits);
                self.follow(id, next);
            }
            What::Look(id) => {
                // Where the batch was full before its delay was over, there may be nothing to do.
                let next = self.fleet.servers[id].begin(now, spec, &mut self.meter.waits);
                if matches!(next, Next::Finish(_)) {
                    self.follow(id, next);
                }
            }
            What::Ready(id) => self.fleet.becomes_ready(now, id),
            What::Leave(id) if self.fleet.servers[id].in_flight() > 0 => self.plan(now + 0.1, What::Leave(id)),
            What::Leave(id) => {
                self.fleet.leaves(now, id);
                for (id, at) in self.fleet.schedule(now) {
                    self.plan(at, What::Ready(id));
                }
            }
            What::Sample if now < end => {
                let seen = self.seen(now);
                autoscaler.sample(now, &self.fleet, &seen);
                let rhythm = autoscaler.rhythm();
                self.plan(now + rhythm.sample_every, What::Sample);
                if let Some(after) = rhythm.decide_after_sample {
                    self.plan(now + after, What::Decide);
                }
            }
            What::Decide if now < end => {
                let replicas = autoscaler.decide(now, &self.fleet);
                self.order(now, replicas, autoscaler.why());
                let rhythm = autoscaler.rhythm();
                if rhythm.decide_after_sample.is_none() {
                    self.plan(now + rhythm.decide_every, What::Decide);
                }
            }
            What::Second if now < end => {
                self.meter.second(now, &self.fleet);
                self.plan(now + 1.0, What::Second);
            }
            What::Reset => self.fleet.servers.iter_mut().for_each(|server| server.reset_counters(now)),
            What::Restart => autoscaler.restart(),
            What::Sicken => {
                self.sick = self.fleet.ready.first().copied();
                let factor = self.scenario.faults.sick.map_or(1.0, |sick| sick.factor);
                if let Some(id) = self.sick {
                    self.fleet.servers[id].slowness = factor;
                }
            }
            What::Heal => {
                if let Some(id) = self.sick {
                    self.fleet.servers[id].slowness = 1.0;
                }
            }
            What::Sample | What::Decide | What::Second => {}
        }
    }

    fn order(&mut self, now: f64, replicas: u32, why: &'static str) {
        let replicas = replicas.clamp(self.scenario.min_replicas, self.scenario.max_replicas);
        let before = self.fleet.ordered;
        if replicas == before {
            return;
        }
        self.meter.ordered(now, before, replicas, why);
        let changes = self.fleet.order(now, replicas);
        for (id, at) in changes.coming {
            self.plan(at, What::Ready(id));
        }
        for (id, at) in changes.going {
            self.plan(at, What::Leave(id));
        }
    }

    /// Which of the ready replicas can be scraped now.
    fn seen(&mut self, now: f64) -> Seen {
        let faults = &self.scenario.faults;
        let blind = faults.blackout.is_some_and(|(from, to)| (from..to).contains(&now));
        let lost = faults.lost_scrapes;
        let random = &mut self.faults;
        let mut is_seen = || !blind && (lost <= 0.0 || random.unit() >= lost);
        Seen(self.fleet.ready.iter().copied().filter(|_| is_seen()).collect())
    }
}
