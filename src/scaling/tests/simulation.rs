//! The law against a plant: replicas with the timer device, a bounded queue, a start-up time and clients that hold
//! their connections, fed with a step of load. Discrete events; the same run every time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use super::super::testing::{at, missing, settings, starting};
use super::super::{
    BatchDelta, BatchLine, Measurement, MissingReason, Observation, Policy, PolicySettings, QueueTime, Reason, Replica,
    ReplicaSample, State, decide, whole,
};

const TIMER: BatchLine = BatchLine { alpha: 0.005, tau0: 0.010 };
const BATCH: usize = 32;
const QUEUE: usize = 1024;
const SCRAPE: f64 = 2.0;

/// How the plant is fed and how quick it is.
#[derive(Clone, Copy)]
struct Run {
    /// Images per second between `from` and `to`.
    rate: f64,
    from: f64,
    to: f64,
    until: f64,
    /// Poisson arrivals; evenly spaced ones otherwise.
    random: bool,
    connections: usize,
    connection_age: f64,
    startup: f64,
    target_milliseconds: u64,
    window: u64,
    /// Between these times no page can be fetched.
    blind: (f64, f64),
}

/// What a run showed.
#[derive(Debug)]
struct Shown {
    first_increase: f64,
    most: u32,
    /// The ordered numbers in the last two thirds of the load.
    steady: Vec<u32>,
    back_at_minimum: f64,
    /// How often the number changed.
    changes: usize,
    /// Changes of direction under load.
    reversals: usize,
    table: String,
}

#[derive(Default)]
struct Server {
    name: String,
    created: f64,
    ready_at: f64,
    queue: VecDeque<f64>,
    busy_until: f64,
    running: usize,
    counts: Counts,
    before: Option<(f64, Counts)>,
}

#[derive(Default, Clone)]
struct Counts {
    completed: u32,
    rejected: u32,
    started: u32,
    waited: f64,
    pending: usize,
    batches: BTreeMap<usize, u32>,
}

/// A small generator of random numbers, so that a run is the same every time.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }

    fn below(&mut self, end: usize) -> usize {
        let index = whole((self.unit() * f64::from(whole(end))).floor()) as usize;
        index.min(end - 1)
    }
}

impl Server {
    fn arrive(&mut self, now: f64) {
        if self.queue.len() >= QUEUE {
            self.counts.rejected += 1;
        } else {
            self.queue.push_back(now);
        }
    }

    /// Ends what is done and begins what waits, up to `now`.
    fn advance(&mut self, now: f64) {
        while self.busy_until <= now {
            self.counts.completed += whole(self.running);
            self.running = 0;
            let began = self.busy_until.max(self.queue.front().copied().unwrap_or(f64::INFINITY));
            if began > now {
                break;
            }
            let size = self.queue.iter().take_while(|arrived| **arrived <= began).take(BATCH).count();
            for arrived in self.queue.drain(..size) {
                self.counts.started += 1;
                self.counts.waited += began - arrived;
            }
            *self.counts.batches.entry(size).or_default() += 1;
            self.running = size;
            self.busy_until = began + TIMER.alpha * f64::from(whole(size)) + TIMER.tau0;
        }
    }

    fn scrape(&mut self, now: f64) -> ReplicaSample {
        self.advance(now);
        self.counts.pending = self.queue.len();
        let counts = self.counts.clone();
        let Some((then, before)) = self.before.replace((now, counts.clone())) else {
            return ReplicaSample::Missing { since: at(self.ready_at), reason: MissingReason::NotYetSampled };
        };
        let seconds = now - then;
        let pending = |counts: &Counts| f64::from(whole(counts.pending));
        let (completed, rejected) = (counts.completed - before.completed, counts.rejected - before.rejected);
        let started = counts.started - before.started;
        let change = pending(&counts) - pending(&before);
        let batches = counts.batches.iter().filter_map(|(size, count)| {
            let executions = f64::from(count - before.batches.get(size).copied().unwrap_or_default());
            let size = f64::from(whole(*size));
            let seconds = executions * (TIMER.alpha * size + TIMER.tau0);
            (executions > 0.0).then_some(BatchDelta { size, executions, seconds })
        });
        ReplicaSample::Measured(Measurement {
            taken: at(now),
            interval: Duration::from_secs_f64(seconds),
            arrivals_per_second: (f64::from(completed + rejected) + change).max(0.0) / seconds,
            completed_per_second: f64::from(completed) / seconds,
            rejected_per_second: f64::from(rejected) / seconds,
            pending_images_before: pending(&before),
            pending_images: pending(&counts),
            queue_time: (started > 0).then(|| QueueTime {
                mean: Duration::from_secs_f64((counts.waited - before.waited) / f64::from(started)),
                ..QueueTime::default()
            }),
            oldest_wait: Some(Duration::from_secs_f64(self.queue.front().map_or(0.0, |arrived| now - arrived))),
            mean_batch: None,
            batches: batches.collect(),
            device_busy: None,
            tainted: false,
        })
    }
}

/// The fleet, its clients and the law.
struct Plant {
    run: Run,
    random: Random,
    servers: Vec<Server>,
    created: u32,
    /// Which server each client's connection leads to, and until when.
    connections: Vec<(usize, f64)>,
}

impl Plant {
    fn new(run: Run) -> Self {
        let first = Server { name: "pod-0".to_owned(), ..Server::default() };
        let connections = vec![(0, 0.0); run.connections];
        Self { run, random: Random(0x2545_F491_4F6C_DD1D), servers: vec![first], created: 1, connections }
    }

    /// Sends one image over one of the connections; an old one is opened anew, to any server that is ready.
    fn arrive(&mut self, now: f64) {
        let chosen = self.random.below(self.connections.len());
        let (server, until) = self.connections[chosen];
        let is_open = until > now && server < self.servers.len();
        let server = if is_open {
            server
        } else {
            let ready: Vec<usize> =
                (0..self.servers.len()).filter(|index| self.servers[*index].ready_at <= now).collect();
            let server = ready[self.random.below(ready.len())];
            self.connections[chosen] = (server, now + self.run.connection_age * (0.5 + self.random.unit() / 2.0));
            server
        };
        self.servers[server].advance(now);
        self.servers[server].arrive(now);
    }

    fn observe(&mut self, now: f64, current: u32) -> Observation {
        let mut observation = Observation {
            current,
            startup_p90: Some(Duration::from_secs_f64(self.run.startup)),
            ..Observation::default()
        };
        for server in &mut self.servers {
            if server.ready_at <= now {
                let (name, class) = (server.name.clone(), "timer".to_owned());
                let is_blind = (self.run.blind.0..self.run.blind.1).contains(&now);
                let sample = if is_blind { missing(at(self.run.blind.0)) } else { server.scrape(now) };
                observation.ready.push(Replica { name, class, sample });
            } else {
                observation.starting.push(starting(at(server.created)));
            }
        }
        observation
    }

    fn scale(&mut self, now: f64, replicas: u32) {
        while self.servers.len() < replicas as usize {
            let ready_at = now + self.run.startup;
            let name = format!("pod-{}", self.created);
            self.servers.push(Server { name, created: now, ready_at, busy_until: ready_at, ..Server::default() });
            self.created += 1;
        }
        self.servers.truncate(replicas as usize);
    }
}

fn simulate(run: Run) -> Shown {
    let policy = Policy::new(PolicySettings {
        target_queue_time: Duration::from_millis(run.target_milliseconds),
        stabilization_window: Duration::from_secs(run.window),
        ..settings()
    })
    .unwrap();
    let mut plant = Plant::new(run);
    let (mut state, mut current) = (State::default(), 1);
    let mut shown = Shown {
        first_increase: f64::INFINITY,
        most: 1,
        steady: Vec::new(),
        back_at_minimum: f64::INFINITY,
        changes: 0,
        reversals: 0,
        table: String::new(),
    };
    let mut last_was_up = true;
    let mut next_arrival = run.from;
    // The load does not begin at the moment of a scrape.
    let mut next_scrape = 0.7;
    while next_scrape < run.until {
        if next_arrival < next_scrape && next_arrival < run.to {
            plant.arrive(next_arrival);
            let gap = if run.random { -plant.random.unit().max(1e-9).ln() } else { 1.0 };
            next_arrival += gap / run.rate;
            continue;
        }
        let now = next_scrape;
        next_scrape += SCRAPE;
        let observation = plant.observe(now, current);
        let (decision, next) = decide(&policy, state, &observation, at(now));
        state = next;
        let inputs = &decision.inputs;
        writeln!(
            shown.table,
            "{now:6.1} s {:3} -> {:3} {:20} arrivals {:6.1} capacity {:6.1} queue {:7.1} ms pending {:6.0}",
            current,
            decision.replicas,
            decision.reason.as_str(),
            inputs.arrivals_per_second.unwrap_or_default(),
            inputs.capacity_per_replica.unwrap_or_default(),
            inputs.queue_time.unwrap_or_default().as_secs_f64() * 1e3,
            inputs.pending_images.unwrap_or_default(),
        )
        .unwrap();
        if decision.replicas > current {
            shown.first_increase = shown.first_increase.min(now - run.from);
        } else if decision.replicas < current {
            assert_eq!(decision.reason, Reason::DemandBelowCapacity);
        }
        if decision.replicas != current {
            shown.changes += 1;
            let is_up = decision.replicas > current;
            shown.reversals += usize::from(now < run.to && is_up != last_was_up);
            last_was_up = is_up;
        }
        current = decision.replicas;
        plant.scale(now, current);
        shown.most = shown.most.max(current);
        if now > run.from + (run.to - run.from) / 3.0 && now < run.to {
            shown.steady.push(current);
        }
        if now > run.to && current == 1 {
            shown.back_at_minimum = shown.back_at_minimum.min(now - run.to);
        }
    }
    shown
}

fn usual() -> Run {
    Run {
        rate: 340.0,
        from: 20.0,
        to: 140.0,
        until: 240.0,
        random: false,
        connections: 32,
        connection_age: 20.0,
        startup: 5.0,
        target_milliseconds: 20,
        window: 60,
        blind: (0.0, 0.0),
    }
}

#[test]
fn a_step_of_load_gets_what_it_needs_stays_there_and_goes_back() {
    let mut failures = String::new();
    for (rate, target_milliseconds) in
        [(200.0, 20), (340.0, 20), (600.0, 20), (240.0, 50), (400.0, 50), (240.0, 100), (400.0, 100), (720.0, 100)]
    {
        for (random, startup, connections) in
            [(false, 5.0, 32), (true, 5.0, 32), (true, 2.0, 8), (true, 20.0, 64), (false, 1.0, 256)]
        {
            let run = Run { rate, random, connections, startup, target_milliseconds, ..usual() };
            let capacity = TIMER.rate_within(Duration::from_millis(target_milliseconds), 32);
            let needed = whole((rate / capacity).ceil());
            let shown = simulate(run);
            let good = shown.first_increase <= 4.0
                && shown.most <= needed + 1
                && shown.steady.iter().all(|replicas| (needed..=needed + 1).contains(replicas))
                // Half go at once, and half of the rest 15 s later.
                && shown.back_at_minimum <= 60.0 + 10.0 + if shown.most > 3 { 30.0 } else { 0.0 }
                && shown.changes <= 6;
            if !good {
                let Shown { first_increase, most, back_at_minimum, changes, table, .. } = shown;
                write!(
                    failures,
                    "{rate}/s, target {target_milliseconds} ms, random {random}, startup {startup} s, \
                     {connections} connections: needed {needed}, most {most}, first after {first_increase} s, \
                     back after {back_at_minimum} s, {changes} changes\n{table}\n"
                )
                .unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn a_step_of_evenly_spaced_load_gets_exactly_what_it_needs() {
    for (rate, needed) in [(200.0, 2), (340.0, 3), (480.0, 4)] {
        let shown = simulate(Run { rate, ..usual() });
        assert!(shown.steady.iter().all(|replicas| *replicas == needed), "{rate}/s:\n{}", shown.table);
        assert_eq!(shown.most, needed, "{rate}/s:\n{}", shown.table);
    }
}

/// Dead times of 1 to 12 periods of a HorizontalPodAutoscaler, under which a ratio of queue times oscillates from a gain of 0.35 and
/// less. What was ordered too much for the backlog goes once, and nothing comes back.
#[test]
fn no_start_up_time_makes_it_oscillate() {
    for startup in [15.0, 60.0, 90.0, 180.0] {
        for (rate, random) in [(200.0, false), (340.0, true), (600.0, true)] {
            let to = 20.0 + 12.0 * startup + 600.0;
            let run = Run { rate, random, startup, to, until: to + 1.0, connection_age: 30.0, ..usual() };
            let needed = whole((rate / TIMER.rate_within(Duration::from_millis(20), 32)).ceil());
            let shown = simulate(run);
            let half = shown.steady.len() / 2;
            let settled: Vec<u32> = shown.steady[half..].to_vec();
            assert!(
                shown.reversals <= 1,
                "{rate}/s, startup {startup} s: {} reversals\n{}",
                shown.reversals,
                shown.table
            );
            assert!(
                settled.iter().all(|replicas| (needed..=needed + 1).contains(replicas)),
                "{rate}/s, startup {startup} s: {settled:?}, where {needed} are needed"
            );
        }
    }
}

#[test]
fn replicas_hold_while_nothing_is_seen_and_a_whole_window_longer() {
    // The load ends in the dark; what is decided from then on rests on a full window of sight.
    let blind = (60.0, 120.0);
    let shown = simulate(Run { to: 90.0, blind, ..usual() });
    let held = shown.table.lines().filter(|line| line.contains("NoData"));
    assert!(held.clone().count() >= 29 && held.skip(1).all(|line| line.contains("  3 ->   3")), "{}", shown.table);
    let seen_again = blind.1 - 90.0;
    assert!(shown.back_at_minimum >= seen_again + 58.0, "{}", shown.table);
    assert!(shown.back_at_minimum <= seen_again + 70.0, "{}", shown.table);
    assert_eq!(shown.most, 3, "{}", shown.table);
}

#[test]
fn a_large_step_is_climbed_in_two_orders() {
    let shown =
        simulate(Run { rate: 1100.0, connections: 256, connection_age: 5.0, target_milliseconds: 100, ..usual() });
    assert!(shown.first_increase <= 2.0, "{}", shown.table);
    assert!(shown.steady.iter().all(|replicas| (7..=8).contains(replicas)), "{}", shown.table);
}
