//! The fleet: replicas from their order to their end, GPUs that are there or not, and who gets a request.

use super::random::{Random, Stream};
use super::scenario::{Routing, Scenario};
use super::server::Server;

/// A replica that is removed goes on answering this long, until nobody sends it anything.
const DRAIN_SECONDS: f64 = 5.0;

/// All replicas that ever were, and which of them answer.
pub(super) struct Fleet<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) servers: Vec<Server>,
    /// Those that get requests, oldest first.
    pub(super) ready: Vec<usize>,
    /// Those that exist and are not ready yet.
    pub(super) starting: Vec<usize>,
    /// How many were ordered.
    pub(super) ordered: u32,
    gpus_held: u32,
    next_in_turn: usize,
    start_up: Random,
    routing: Random,
}

/// What becomes of the fleet when another number is ordered.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Replicas that will answer, and when.
    pub(super) coming: Vec<(usize, f64)>,
    /// Replicas that will end, and when at the earliest.
    pub(super) going: Vec<(usize, f64)>,
}

impl<'a> Fleet<'a> {
    /// A fleet of replicas that are all ready.
    pub(super) fn new(scenario: &'a Scenario, replicas: u32, seed: u64) -> Self {
        let servers: Vec<Server> = (0..replicas as usize)
            .map(|id| {
                let mut server = Server::new(id, 0.0);
                (server.scheduled, server.ready_at, server.is_ready) = (Some(0.0), 0.0, true);
                server
            })
            .collect();
        Self {
            scenario,
            ready: (0..servers.len()).collect(),
            starting: Vec::new(),
            servers,
            ordered: replicas,
            gpus_held: replicas,
            next_in_turn: 0,
            start_up: Random::new(seed, Stream::StartUp),
            routing: Random::new(seed, Stream::Routing),
        }
    }

    /// The replica that gets the next request.
    pub(super) fn route(&mut self) -> Option<usize> {
        let Self { ready, servers, .. } = self;
        if ready.len() < 2 {
            return ready.first().copied();
        }
        let load = |id: usize| servers[id].in_flight();
        Some(match self.scenario.routing {
            Routing::Random => ready[self.routing.below(ready.len())],
            Routing::RoundRobin => {
                self.next_in_turn = (self.next_in_turn + 1) % ready.len();
                ready[self.next_in_turn]
            }
            Routing::LeastPending => ready.iter().copied().min_by_key(|id| load(*id))?,
            Routing::PowerOfTwo => {
                let first = self.routing.below(ready.len());
                let second = (first + 1 + self.routing.below(ready.len() - 1)) % ready.len();
                let (first, second) = (ready[first], ready[second]);
                if load(second) < load(first) { second } else { first }
            }
        })
    }

    /// Orders a number of replicas. Those that go are the ones without a GPU, then those that are not ready, then the
    /// youngest, as Kubernetes chooses.
    pub(super) fn order(&mut self, now: f64, replicas: u32) -> Changes {
        self.ordered = replicas;
        let mut changes = Changes::default();
        let mut present = self.ready.len() + self.starting.len();
        while present > replicas as usize {
            let id = if let Some(id) = self.starting_to_give_up() {
                self.starting.retain(|other| *other != id);
                self.leaves(now, id);
                id
            } else if let Some(id) = self.ready.pop() {
                self.servers[id].draining = true;
                id
            } else {
                break;
            };
            if self.servers[id].gone.is_none() {
                changes.going.push((id, now + DRAIN_SECONDS));
            }
            present -= 1;
        }
        while present < replicas as usize {
            let id = self.servers.len();
            self.servers.push(Server::new(id, now));
            self.starting.push(id);
            present += 1;
        }
        changes.coming = self.schedule(now);
        changes
    }

    /// Gives GPUs to replicas that wait for one.
    pub(super) fn schedule(&mut self, now: f64) -> Vec<(usize, f64)> {
        let mut coming = Vec::new();
        for id in &self.starting {
            let server = &mut self.servers[*id];
            if server.scheduled.is_some() || self.gpus_held >= self.scenario.gpu_quota {
                continue;
            }
            self.gpus_held += 1;
            server.scheduled = Some(now);
            server.ready_at = now + self.start_up.lognormal(self.scenario.startup_seconds, self.scenario.startup_sigma);
            coming.push((*id, server.ready_at));
        }
        coming
    }

    /// A replica answers from now on, if it still exists.
    pub(super) fn becomes_ready(&mut self, now: f64, id: usize) {
        if self.servers[id].gone.is_none() {
            self.starting.retain(|other| *other != id);
            self.ready.push(id);
            let server = &mut self.servers[id];
            server.is_ready = true;
            server.reset_counters(now);
        }
    }

    /// A replica is gone, and its GPU is free.
    pub(super) fn leaves(&mut self, now: f64, id: usize) {
        let server = &mut self.servers[id];
        server.gone = Some(now);
        self.gpus_held -= u32::from(server.scheduled.is_some());
    }

    /// Those that exist and stay.
    pub(super) fn present(&self) -> impl Iterator<Item = &Server> {
        self.ready.iter().chain(&self.starting).map(|id| &self.servers[*id])
    }

    /// GPU-seconds of all replicas until `end`, from the moment that each got its GPU.
    pub(super) fn gpu_seconds(&self, end: f64) -> f64 {
        let held = |server: &Server| {
            let until = server.gone.unwrap_or(end).min(end);
            server.scheduled.map_or(0.0, |since| (until - since).max(0.0))
        };
        self.servers.iter().map(held).sum()
    }

    fn starting_to_give_up(&self) -> Option<usize> {
        let rank = |id: &&usize| (self.servers[**id].scheduled.is_none(), **id);
        self.starting.iter().max_by_key(rank).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::scenario;
    use super::*;

    #[test]
    fn replicas_start_are_ready_and_go_youngest_and_unready_first() {
        let scenario = Scenario { gpu_quota: 3, ..scenario() };
        let mut fleet = Fleet::new(&scenario, 1, 7);
        let changes = fleet.order(0.0, 4);
        assert_eq!(changes.coming.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2], "the fourth finds no GPU");
        assert_eq!(fleet.servers[3].scheduled, None);
        fleet.becomes_ready(20.0, 1);
        let changes = fleet.order(21.0, 2);
        assert!(changes.going.is_empty(), "those that never answered are gone at once: {changes:?}");
        assert_eq!((fleet.ready.as_slice(), fleet.starting.is_empty()), ([0, 1].as_slice(), true));
        assert_eq!(fleet.servers[2].gone, Some(21.0));
        let changes = fleet.order(30.0, 1);
        assert_eq!(changes.going, [(1, 35.0)]);
        assert_eq!(fleet.ready, [0]);
    }

    #[test]
    fn a_freed_gpu_goes_to_who_waits() {
        let scenario = Scenario { gpu_quota: 1, ..scenario() };
        let mut fleet = Fleet::new(&scenario, 1, 7);
        assert!(fleet.order(0.0, 2).coming.is_empty());
        fleet.leaves(5.0, 0);
        assert_eq!(fleet.schedule(5.0).len(), 1);
        assert!((fleet.gpu_seconds(10.0) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn routing_does_what_its_name_says() {
        for (routing, expected) in [(Routing::LeastPending, 1), (Routing::RoundRobin, 1)] {
            let scenario = Scenario { routing, ..scenario() };
            let mut fleet = Fleet::new(&scenario, 3, 7);
            let spec = scenario.server;
            fleet.servers[0].arrive(0.0, &spec, &mut Vec::new());
            assert_eq!(fleet.route(), Some(expected), "{}", routing.as_str());
        }
        let scenario = Scenario { routing: Routing::PowerOfTwo, ..scenario() };
        let mut fleet = Fleet::new(&scenario, 2, 7);
        fleet.servers[0].arrive(0.0, &scenario.server, &mut Vec::new());
        assert!((0..20).all(|_| fleet.route() == Some(1)), "of two, the better one is always found");
    }
}
