//! One replica: a bounded queue, a dynamic batcher in front of one device, and the counters that it exports.

use std::collections::VecDeque;

use super::arrivals::count;
use super::scenario::ServerSpec;

/// Upper bounds of the histogram of waits, in seconds, as Flotilla's server has them; the last is infinite.
pub(super) const WAIT_BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, f64::INFINITY];

/// A replica and where it is in its life.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: usize,
    pub(super) created: f64,
    /// When it got its GPU; none while it waits for one.
    pub(super) scheduled: Option<f64>,
    /// When it answers or will; infinite while it waits for a GPU.
    pub(super) ready_at: f64,
    pub(super) is_ready: bool,
    /// It gets no requests any more, and goes when those it has are answered.
    pub(super) draining: bool,
    pub(super) gone: Option<f64>,
    /// How many times slower than it should be.
    pub(super) slowness: f64,
    pub(super) counters: Counters,
    queue: VecDeque<f64>,
    running: Option<Batch>,
    in_flight_since: f64,
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    size: u32,
    seconds: f64,
    waited: f64,
}

/// What a server counts from its start.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    pub(super) completed: f64,
    pub(super) rejected: f64,
    pub(super) executions: f64,
    /// Waits of answered requests, the batching delay included (Triton's meaning).
    pub(super) waited: f64,
    /// Each answered request counts its whole batch (Triton's meaning).
    pub(super) computed: f64,
    pub(super) busy: f64,
    pub(super) started: f64,
    pub(super) waits_sum: f64,
    pub(super) waits: [f64; WAIT_BOUNDS.len()],
    /// Executions and their seconds by batch size, from size 1 on.
    pub(super) batches: Vec<(f64, f64)>,
    /// Seconds times requests in the server.
    pub(super) in_flight_seconds: f64,
    /// When counting began.
    pub(super) since: f64,
}

/// What a server does after something happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    Nothing,
    /// A batch runs and ends then.
    Finish(f64),
    /// The batch is not full, and is executed then at the latest.
    Look(f64),
}

impl Server {
    pub(super) fn new(id: usize, created: f64) -> Self {
        Self {
            id,
            created,
            scheduled: None,
            ready_at: f64::INFINITY,
            is_ready: false,
            draining: false,
            gone: None,
            slowness: 1.0,
            counters: Counters { since: created, ..Counters::default() },
            queue: VecDeque::new(),
            running: None,
            in_flight_since: created,
        }
    }

    /// Requests waiting.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Requests waiting and executed.
    pub(super) fn in_flight(&self) -> usize {
        self.queue.len() + self.running.map_or(0, |batch| batch.size as usize)
    }

    /// How long the oldest waiting request has waited.
    pub(super) fn oldest_wait(&self, now: f64) -> f64 {
        self.queue.front().map_or(0.0, |arrived| now - arrived)
    }

    /// Seconds times requests in the server until now.
    pub(super) fn in_flight_seconds(&self, now: f64) -> f64 {
        self.counters.in_flight_seconds + count(self.in_flight()) * (now - self.in_flight_since)
    }

    /// Takes a request in, or refuses it.
    pub(super) fn arrive(&mut self, now: f64, spec: &ServerSpec, waits: &mut Vec<f32>) -> Option<Next> {
        if self.queue.len() >= spec.max_queue {
            self.counters.rejected += 1.0;
            return None;
        }
        self.note_in_flight(now);
        self.queue.push_back(now);
        Some(if self.running.is_none() { self.begin(now, spec, waits) } else { Next::Nothing })
    }

    /// Ends the batch and begins the next.
    pub(super) fn finish(&mut self, now: f64, spec: &ServerSpec, waits: &mut Vec<f32>) -> Next {
        self.note_in_flight(now);
        if let Some(batch) = self.running.take() {
            let (size, counters) = (f64::from(batch.size), &mut self.counters);
            counters.completed += size;
            counters.executions += 1.0;
            counters.waited += batch.waited;
            counters.computed += size * batch.seconds;
            counters.busy += batch.seconds;
            let slot = batch.size as usize - 1;
            if counters.batches.len() <= slot {
                counters.batches.resize(slot + 1, (0.0, 0.0));
            }
            counters.batches[slot].0 += 1.0;
            counters.batches[slot].1 += batch.seconds;
        }
        self.begin(now, spec, waits)
    }

    /// Begins a batch if one is due.
    pub(super) fn begin(&mut self, now: f64, spec: &ServerSpec, waits: &mut Vec<f32>) -> Next {
        let Some(front) = self.queue.front().copied().filter(|_| self.running.is_none()) else {
            return Next::Nothing;
        };
        let due = front + spec.batching_delay.as_secs_f64();
        if self.queue.len() < spec.max_batch as usize && now < due {
            return Next::Look(due);
        }
        let size = crate::scaling::whole(self.queue.len()).min(spec.max_batch);
        let mut waited = 0.0;
        for arrived in self.queue.drain(..size as usize) {
            let wait = now - arrived;
            waited += wait;
            let bucket = WAIT_BOUNDS.partition_point(|bound| *bound < wait);
            self.counters.waits[bucket] += 1.0;
            waits.push(narrow(wait));
        }
        self.counters.started += f64::from(size);
        self.counters.waits_sum += waited;
        let seconds = spec.seconds(size) * self.slowness;
        self.running = Some(Batch { size, seconds, waited });
        Next::Finish(now + seconds)
    }

    /// The container starts anew as far as its counters tell.
    pub(super) fn reset_counters(&mut self, now: f64) {
        self.note_in_flight(now);
        self.counters = Counters { since: now, ..Counters::default() };
    }

    fn note_in_flight(&mut self, now: f64) {
        self.counters.in_flight_seconds += count(self.in_flight()) * (now - self.in_flight_since);
        self.in_flight_since = now;
    }
}

/// A wait in single precision: a million of them are held, and seven digits are plenty.
#[expect(clippy::cast_possible_truncation, reason = "the precision is not needed")]
fn narrow(seconds: f64) -> f32 {
    seconds as f32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scaling::BatchLine;

    fn spec(delay: u64) -> ServerSpec {
        ServerSpec {
            line: BatchLine { alpha: 0.005, tau0: 0.010 },
            max_batch: 4,
            batching_delay: Duration::from_millis(delay),
            max_queue: 6,
        }
    }

    #[test]
    fn batches_form_while_the_device_is_busy() {
        let (spec, mut waits, mut server) = (spec(0), Vec::new(), Server::new(0, 0.0));
        assert_eq!(server.arrive(0.0, &spec, &mut waits), Some(Next::Finish(0.015)));
        for at in [0.001, 0.002, 0.003, 0.004, 0.005] {
            assert_eq!(server.arrive(at, &spec, &mut waits), Some(Next::Nothing));
        }
        assert_eq!((server.waiting(), server.in_flight()), (5, 6));
        // Four of the five fit into the next batch.
        let Next::Finish(second) = server.finish(0.015, &spec, &mut waits) else { panic!("a batch") };
        assert!((second - 0.045).abs() < 1e-9);
        assert_eq!((server.waiting(), server.counters.completed, server.counters.executions), (1, 1.0, 1.0));
        assert_eq!(waits.len(), 5);
        assert!((server.counters.waits_sum - (0.014 + 0.013 + 0.012 + 0.011)).abs() < 1e-9);
        server.finish(second, &spec, &mut waits);
        assert!((server.counters.computed - (0.015 + 4.0 * 0.030)).abs() < 1e-9);
        assert!((server.in_flight_seconds(0.015) - 0.0).abs() < 1.0);
    }

    #[test]
    fn a_batch_waits_for_the_delay_or_until_it_is_full() {
        let (spec, mut waits, mut server) = (spec(10), Vec::new(), Server::new(0, 0.0));
        assert_eq!(server.arrive(1.0, &spec, &mut waits), Some(Next::Look(1.01)));
        assert_eq!(server.begin(1.005, &spec, &mut waits), Next::Look(1.01));
        assert!(matches!(server.begin(1.01, &spec, &mut waits), Next::Finish(_)));
        let mut full = Server::new(1, 0.0);
        let last = [1.0, 1.001, 1.002, 1.003].map(|at| full.arrive(at, &spec, &mut waits));
        assert!(matches!(last[3], Some(Next::Finish(_))), "{last:?}");
    }

    #[test]
    fn a_full_queue_refuses() {
        let (spec, mut waits, mut server) = (spec(0), Vec::new(), Server::new(0, 0.0));
        let taken = (0..9).filter(|_| server.arrive(0.0, &spec, &mut waits).is_some()).count();
        assert_eq!((taken, server.counters.rejected), (7, 2.0));
    }

    #[test]
    fn time_in_the_server_is_counted() {
        let (spec, mut waits, mut server) = (spec(0), Vec::new(), Server::new(0, 0.0));
        server.arrive(1.0, &spec, &mut waits);
        server.arrive(1.005, &spec, &mut waits);
        assert!((server.in_flight_seconds(1.010) - (0.010 + 0.005)).abs() < 1e-9);
        server.finish(1.015, &spec, &mut waits);
        assert!((server.in_flight_seconds(1.020) - (0.015 + 0.010 + 0.005)).abs() < 1e-9);
    }
}
