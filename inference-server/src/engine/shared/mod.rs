//! The lock around everything that waits, and who sleeps until something changes.
//!
//! Whoever has brought something takes it as far as it goes on its own thread: a caller copies its tensors into the batch, a
//! decoder its image. Another thread is woken only where one must be: an idle device, a decoder for a file, the clock for a
//! deadline that is sooner than all others. At low load a request of tensors meets one other thread, and one of images two; where
//! the device is quicker than such a meeting, the caller runs the batch, and a request of tensors meets none.
//!
//! What a caller does is in [`callers`], what the engine's own threads do in [`threads`]; here is what both need.

mod callers;
mod threads;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    InferError,
    batch::{Next, Open, Policy},
    forming::Forming,
    layout::Layout,
    sleepers::Sleepers,
    state::{Reserved, Snapshot, State},
    ticket::Content,
};

/// What is smaller is copied where the lock is held: that is quicker than to give the lock back and take it again.
const SMALL_COPY: usize = 4 << 10;
/// Less than this is left for the device's thread to copy: waking another thread for it takes as long.
const WORTH_A_THREAD: usize = 64 << 10;

/// What is shared by callers, decoders, devices and the clock.
#[derive(Debug)]
pub(super) struct Shared {
    /// What all batches have in common.
    pub(super) layout: Arc<Layout>,
    policy: Policy,
    limits: Limits,
    row_bytes: usize,
    /// There is one device, so that who finds a sleeper knows which one sleeps.
    can_lend: bool,
    floor: Mutex<Floor>,
    devices: Condvar,
    hands: Condvar,
    clock: Condvar,
    has_died: AtomicBool,
}

/// Held by a thread for its life; a thread that ends in a panic takes the engine's life with it.
pub(super) struct Pulse<'a>(pub(super) &'a Shared);

impl Drop for Pulse<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.die();
        }
    }
}

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most requests that wait.
    pub(super) requests: usize,
    /// The most rows that wait.
    pub(super) rows: usize,
    /// The most images that are decoded and wait for a place in a batch.
    pub(super) decoded: usize,
    /// How long an execution may take.
    pub(super) execution: Duration,
}

#[derive(Debug)]
struct Floor {
    state: State,
    devices: Sleepers,
    hands: Sleepers,
    clock_wakes: Instant,
    live_devices: usize,
    /// A caller runs a batch, and the device's thread sleeps on.
    is_lent: bool,
    is_closed: bool,
}

impl Floor {
    /// A caller runs the batch that was just started.
    fn lend(&mut self) {
        self.devices.stand_in();
        self.is_lent = true;
    }
}

/// A request that wants to be admitted.
#[derive(Debug)]
pub(super) struct Draft {
    /// What it brings, and how many rows that are.
    pub(super) content: (Content, usize),
    /// When its last byte was read.
    pub(super) arrived: Instant,
    /// When it is to be given up.
    pub(super) deadline: Instant,
    /// Its priority less one.
    pub(super) level: u32,
    /// The number of threads that decode.
    pub(super) decoders: usize,
}

impl Shared {
    /// Nothing waits yet.
    pub(super) fn new(layout: Layout, policy: Policy, limits: Limits, devices: usize, decoders: usize) -> Self {
        let layout = Arc::new(layout);
        let row_bytes = layout.signature.inputs.iter().map(|spec| {
            let elements: Option<usize> = spec.dims.iter().skip(1).copied().product();
            // A row of an open size may be large.
            elements.map_or(WORTH_A_THREAD, |elements| elements * spec.data_type.size().unwrap_or(1))
        });
        let floor = Floor {
            state: State::new(Arc::clone(&layout), policy.max_delay.is_zero(), devices, decoders),
            devices: Sleepers::default(),
            hands: Sleepers::default(),
            clock_wakes: Instant::now(),
            live_devices: devices,
            is_lent: false,
            is_closed: false,
        };
        Self {
            row_bytes: row_bytes.sum(),
            can_lend: devices == 1,
            layout,
            policy,
            limits,
            floor: Mutex::new(floor),
            devices: Condvar::new(),
            hands: Condvar::new(),
            clock: Condvar::new(),
            has_died: AtomicBool::new(false),
        }
    }

    /// A device's thread has ended; with the last one, everybody who waits has waited in vain.
    pub(super) fn lose_device(&self) {
        let mut floor = self.lock();
        floor.live_devices = floor.live_devices.saturating_sub(1);
        let lost = if floor.live_devices == 0 { floor.state.give_up_all() } else { Vec::new() };
        drop(floor);
        for ticket in lost {
            ticket.fail(InferError::Stopped);
        }
    }

    /// A thread has failed in a way that nothing repairs.
    pub(super) fn die(&self) {
        self.has_died.store(true, Ordering::Release);
    }

    /// Whether every thread is there and no execution hangs.
    pub(super) fn is_alive(&self) -> bool {
        !self.has_died.load(Ordering::Acquire) && !self.lock().state.hangs(self.limits.execution, Instant::now())
    }

    /// The threads end when they have finished what they do.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.devices.notify_all();
        self.hands.notify_all();
        self.clock.notify_all();
    }

    /// What the gauges show now.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.lock().state.snapshot(Instant::now())
    }

    /// What an idle device does with the batch, and whether all of it is written.
    fn next(&self, forming: &Forming, now: Instant) -> (Next, bool) {
        let (is_closed, is_written) = forming.state();
        let open = Open { rows: forming.rows(), age: forming.age(now), is_closed };
        (self.policy.next(open, true), is_written)
    }

    /// Copies at most so many portions into the batch. `is_device`: the caller is an idle device.
    fn copy<'a>(&'a self, mut floor: MutexGuard<'a, Floor>, most: usize, is_device: bool) -> MutexGuard<'a, Floor> {
        for _ in 0..most {
            let is_idle = is_device || floor.devices.asleep() > 0;
            match floor.state.reserve(is_idle, Instant::now()) {
                None => break,
                Some(Reserved::Lent) => {}
                Some(Reserved::Writing(mut writing)) => {
                    if writing.bytes() <= SMALL_COPY {
                        writing.write();
                    } else {
                        drop(floor);
                        writing.write();
                        floor = self.lock();
                    }
                    floor.state.commit(writing);
                }
            }
        }
        floor
    }

    /// Gives the lock back, and wakes whom the change concerns.
    fn release(&self, mut floor: MutexGuard<'_, Floor>) {
        let has_work = floor.state.forming().is_some() || floor.state.copies() > 0;
        let device = has_work && floor.devices.call();
        let hands = self.call_hands(&mut floor);
        let clock = floor.state.next_deadline().is_some_and(|deadline| deadline < floor.clock_wakes);
        if clock {
            // Once is enough: the clock looks at all deadlines when it wakes.
            floor.clock_wakes = Instant::now();
        }
        drop(floor);
        if device {
            self.devices.notify_one();
        }
        for _ in 0..hands {
            self.hands.notify_one();
        }
        if clock {
            self.clock.notify_one();
        }
    }

    /// How many sleepers to wake for files to decode, and for copies that no idle device will make.
    fn call_hands(&self, floor: &mut Floor) -> usize {
        let (files, decoded) = floor.state.images();
        let decodable = files.min(self.limits.decoded.saturating_sub(decoded));
        let are_devices_busy = floor.devices.asleep() + floor.devices.called() == 0;
        let is_worth_it = floor.state.copies().saturating_mul(self.row_bytes) >= WORTH_A_THREAD;
        let wanted = (decodable + usize::from(are_devices_busy && is_worth_it)).saturating_sub(floor.hands.called());
        (0..wanted).take_while(|_| floor.hands.call()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Floor> {
        // Nothing that can panic runs while the lock is held.
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a>(condition: &Condvar, floor: MutexGuard<'a, Floor>, timeout: Option<Duration>) -> MutexGuard<'a, Floor> {
    match timeout {
        None => condition.wait(floor).unwrap_or_else(PoisonError::into_inner),
        Some(timeout) => condition.wait_timeout(floor, timeout).unwrap_or_else(PoisonError::into_inner).0,
    }
}
