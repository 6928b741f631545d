//! The board of requests that wait: what bounds the queue, what the gauges show, and the clock of the queue signal.
//!
//! A request is on the board from its admission to the start of its execution. Its caller holds the [`Ticket`]; a caller that
//! goes away takes its request off the board at once, and the pipeline drops what it finds abandoned. The clock runs from the
//! body's last byte, leaves out the request's own decoding (which no second replica would shorten) and leaves in its wait
//! for a core to decode on (which one would).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

const WAITING: u8 = 0;
const EXECUTING: u8 = 1;
const LEFT: u8 = 2;

/// All requests that wait.
#[derive(Debug)]
pub(super) struct Board {
    capacity: usize,
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    next_id: u64,
    by_id: HashMap<u64, Arc<Clock>>,
}

/// One request's state, shared by its caller and the pipeline.
#[derive(Debug)]
pub(super) struct Clock {
    id: u64,
    state: AtomicU8,
    images: usize,
    arrived: Instant,
    decoding: Mutex<Decoding>,
}

#[derive(Debug, Default)]
struct Decoding {
    done: Duration,
    running: Vec<Instant>,
    /// How many of the request's images can decode at the same time.
    parallel: u32,
}

/// The caller's hold on a waiting request; dropping it abandons the request.
#[derive(Debug)]
pub(super) struct Ticket {
    clock: Arc<Clock>,
    board: Arc<Board>,
}

/// What the gauges show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Requests that wait.
    pub(super) requests: usize,
    /// Images in them.
    pub(super) images: usize,
    /// The age of the oldest by the queue signal's clock.
    pub(super) oldest: Duration,
}

impl Board {
    /// A board for at most `capacity` requests.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, requests: Mutex::default() }
    }

    /// Admits a request, unless the board is full.
    pub(super) fn admit(self: &Arc<Self>, images: usize, arrived: Instant, decoders: usize) -> Option<Ticket> {
        let mut requests = self.lock();
        if requests.by_id.len() >= self.capacity {
            return None;
        }
        let id = requests.next_id;
        requests.next_id += 1;
        let parallel = u32::try_from(images.min(decoders).max(1)).unwrap_or(u32::MAX);
        let decoding = Mutex::new(Decoding { parallel, ..Decoding::default() });
        let clock = Arc::new(Clock { id, state: AtomicU8::new(WAITING), images, arrived, decoding });
        requests.by_id.insert(id, Arc::clone(&clock));
        Some(Ticket { clock, board: Arc::clone(self) })
    }

    /// Marks the start of a request's execution; false when its caller is gone.
    pub(super) fn start(&self, clock: &Clock) -> bool {
        self.leave(clock, EXECUTING)
    }

    /// What the gauges show now.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let requests = self.lock();
        Snapshot {
            requests: requests.by_id.len(),
            images: requests.by_id.values().map(|clock| clock.images).sum(),
            oldest: requests.by_id.values().map(|clock| clock.waited(now)).max().unwrap_or_default(),
        }
    }

    fn leave(&self, clock: &Clock, state: u8) -> bool {
        let left = clock.state.compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if left {
            self.lock().by_id.remove(&clock.id);
        }
        left
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        // A panic while the lock is held can't leave the map broken: each critical section is one insertion or removal.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    /// Whether somebody still waits for the answer and nothing has started.
    pub(super) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    /// When the body's last byte was read.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Does one image's decoding with the clock stopped for it, and says how long it took.
    pub(super) fn decode<T>(&self, work: impl FnOnce() -> T) -> (T, Duration) {
        let start = Instant::now();
        self.decoding().running.push(start);
        let result = work();
        let took = start.elapsed();
        let mut decoding = self.decoding();
        decoding.running.retain(|other| *other != start);
        decoding.done += took;
        (result, took)
    }

    /// The queue signal so far: the time since the last byte, less the request's own decoding.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        let decoding = self.decoding();
        let running: Duration = decoding.running.iter().map(|start| now.saturating_duration_since(*start)).sum();
        // Images of one request that decode at the same time are one stretch of its time, so their sum is divided.
        let own = (decoding.done + running) / decoding.parallel.max(1);
        now.saturating_duration_since(self.arrived).saturating_sub(own)
    }

    /// How long its images took to decode so far, those of the same time counted once.
    pub(super) fn decoded(&self) -> Duration {
        let decoding = self.decoding();
        decoding.done / decoding.parallel.max(1)
    }

    fn decoding(&self) -> MutexGuard<'_, Decoding> {
        self.decoding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The request's state, for the pipeline.
    pub(super) fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// Gives up waiting; false when the execution has started.
    pub(super) fn leave(&self) -> bool {
        self.board.leave(&self.clock, LEFT)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_full_board_admits_nobody_until_one_leaves() {
        let board = Arc::new(Board::new(2));
        let now = Instant::now();
        let first = board.admit(1, now, 1).unwrap();
        let _second = board.admit(3, now, 1).unwrap();
        assert!(board.admit(1, now, 1).is_none());
        assert_eq!(board.snapshot(now + 5 * MS), Snapshot { requests: 2, images: 4, oldest: 5 * MS });
        drop(first);
        assert!(board.admit(1, now, 1).is_some());
    }

    #[test]
    fn an_abandoned_request_is_not_started_and_a_started_one_not_abandoned() {
        let board = Arc::new(Board::new(2));
        let abandoned = board.admit(1, Instant::now(), 1).unwrap();
        let clock = abandoned.clock();
        drop(abandoned);
        assert!(!board.start(&clock));
        let started = board.admit(1, Instant::now(), 1).unwrap();
        assert!(board.start(&started.clock()));
        assert!(!started.leave());
        assert_eq!(board.snapshot(Instant::now()), Snapshot::default());
    }

    #[test]
    fn own_decoding_is_not_waiting() {
        let board = Arc::new(Board::new(1));
        let start = Instant::now();
        let ticket = board.admit(1, start, 4).unwrap();
        let (value, took) = ticket.clock().decode(|| {
            std::thread::sleep(20 * MS);
            assert!(ticket.clock().waited(Instant::now()) < 15 * MS, "work that runs counts as decoding too");
            7
        });
        assert_eq!(value, 7);
        let now = Instant::now();
        assert_eq!(ticket.clock().waited(now), (now - start).saturating_sub(took));
    }
}
