//! The lock around everything that waits, and who sleeps until something changes.
//!
//! Whoever has brought something takes it as far as it goes on its own thread: a caller copies its tensors into the batch, a
//! decoder its image. Another thread is woken only where one must be: an idle device, a decoder for a file, the clock for a
//! deadline that is sooner than all others. At low load a request of tensors meets one other thread, and one of images two; where
//! the device is quicker than such a meeting, the caller runs the batch, and a request of tensors meets none.

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
    forming::{Forming, Memory},
    layout::Layout,
    sleepers::Sleepers,
    state::{File, Member, Reserved, Snapshot, Start, State},
    ticket::{Content, Ticket},
};

/// What is smaller is copied where the lock is held: that is quicker than to give the lock back and take it again.
const SMALL_COPY: usize = 4 << 10;
/// What is larger is not copied by the caller's thread, which also serves the network.
const LARGE_COPY: usize = 4 << 20;
/// Less than this is left for the device's thread to copy: waking another thread for it takes as long.
const WORTH_A_THREAD: usize = 64 << 10;
/// A batch that takes no longer is run by the caller: to wake the device's thread, and by it the caller's, costs as much. The
/// network waits as long.
const QUICK: Duration = Duration::from_micros(50);
/// The device of an engine that has but one.
const ONLY: usize = 0;
/// Nobody who finds the queue full is told to come back sooner.
const SOONEST_RETRY: Duration = Duration::from_millis(100);
/// How often the clock looks for executions that hang.
const HEARTBEAT: Duration = Duration::from_secs(1);

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

    /// Admits a request and takes it as far as it goes. A batch that comes back with it is for the caller to run.
    ///
    /// # Errors
    /// When there is no place for it, or no time.
    pub(super) fn submit(&self, draft: Draft) -> Result<(Arc<Ticket>, Option<Start>), InferError> {
        let Draft { content, arrived, deadline, level, decoders } = draft;
        let (mut floor, now) = (self.lock(), Instant::now());
        if floor.live_devices == 0 {
            return Err(InferError::Stopped);
        }
        if deadline <= now {
            return Err(InferError::Timeout);
        }
        let (requests, rows) = floor.state.load();
        if requests >= self.limits.requests || (rows > 0 && rows + content.1 > self.limits.rows) {
            return Err(InferError::QueueFull { retry_after: floor.state.longest_wait(now).max(SOONEST_RETRY) });
        }
        let has_images = matches!(content.0, Content::Images(_));
        // The exact wait is a walk through the queue; the longest shows that it is seldom needed.
        if now + floor.state.longest_wait(now) > deadline {
            let wait = floor.state.wait(level, has_images, now);
            if now + wait > deadline {
                return Err(InferError::QueueFull { retry_after: wait });
            }
        }
        let is_large = content.1.saturating_mul(self.row_bytes) > LARGE_COPY;
        let ticket = Arc::new(Ticket::new(floor.state.next_id(), [arrived, deadline], level, content, decoders));
        floor.state.admit(&ticket, now);
        if !has_images && !is_large {
            floor = self.copy(floor, 1, false);
        }
        let start = self.lend(&mut floor, now);
        self.release(floor);
        Ok((ticket, start))
    }

    /// The batch that the only device would run now, if it is so quick that its thread had better sleep on.
    fn lend(&self, floor: &mut Floor, now: Instant) -> Option<Start> {
        if !self.can_lend || floor.is_lent || floor.devices.asleep() == 0 {
            return None;
        }
        let forming = floor.state.forming()?;
        let (rows, next) = (forming.rows(), self.next(forming, now));
        if next != (Next::Run, true) || floor.state.forecast.execution(rows)? > QUICK {
            return None;
        }
        let start = floor.state.start(ONLY, now)?;
        floor.devices.stand_in();
        floor.is_lent = true;
        Some(start)
    }

    /// The caller is gone: true when its request still waited.
    pub(super) fn leave(&self, ticket: &Ticket) -> bool {
        ticket.close();
        let mut floor = self.lock();
        let has_waited = floor.state.leave(ticket);
        self.release(floor);
        has_waited
    }

    /// The request ends with an error, unless it has its answer.
    pub(super) fn fail(&self, ticket: &Ticket, error: InferError) {
        let mut floor = self.lock();
        floor.state.leave(ticket);
        self.release(floor);
        ticket.fail(error);
    }

    /// Waits for a batch and takes it; none when the engine is gone.
    pub(super) fn next_batch(&self, instance: usize) -> Option<Start> {
        let mut floor = self.lock();
        loop {
            if floor.is_closed {
                return None;
            }
            if floor.is_lent {
                floor.devices.sleep();
                floor = wait(&self.devices, floor, None);
                floor.devices.wake();
                continue;
            }
            floor = self.copy(floor, usize::MAX, true);
            let now = Instant::now();
            let mut timeout = None;
            if let Some(forming) = floor.state.forming() {
                match self.next(forming, now) {
                    (Next::Run, true) => {
                        let start = floor.state.start(instance, now);
                        if start.is_some() {
                            self.release(floor);
                            return start;
                        }
                        continue;
                    }
                    // Whoever writes the last row calls.
                    (Next::Run, false) => forming.close(),
                    (Next::Wait, _) => {}
                    (Next::WaitAtMost(delay), _) => {
                        forming.held_since.get_or_insert(now);
                        timeout = Some(delay);
                    }
                }
            }
            for _ in 0..self.call_hands(&mut floor) {
                self.hands.notify_one();
            }
            floor.devices.sleep();
            floor = wait(&self.devices, floor, timeout);
            floor.devices.wake();
        }
    }

    /// What an idle device does with the batch, and whether all of it is written.
    fn next(&self, forming: &Forming, now: Instant) -> (Next, bool) {
        let (is_closed, is_written) = forming.state();
        let open = Open { rows: forming.rows(), age: forming.age(now), is_closed };
        (self.policy.next(open, true), is_written)
    }

    /// An execution has ended: whom to answer.
    pub(super) fn end(&self, instance: usize, memory: Option<Memory>, took: Option<(usize, Duration)>) -> Vec<Member> {
        let mut floor = self.lock();
        if let Some((rows, took)) = took {
            floor.state.forecast.executed(rows, took);
        }
        let members = floor.state.end(instance, memory);
        if std::mem::take(&mut floor.is_lent) {
            floor.devices.stand_back();
            self.release(floor);
        }
        members
    }

    /// Waits for an image and takes it. Meanwhile copies what a busy device will need; none when the engine is gone.
    pub(super) fn next_file(&self) -> Option<File> {
        let mut floor = self.lock();
        loop {
            if floor.is_closed {
                return None;
            }
            if floor.devices.asleep() == 0 && floor.state.copies() > 0 {
                floor = self.copy(floor, 1, false);
                // Meanwhile the device may have become idle, and wait for just these rows.
                self.release(floor);
                floor = self.lock();
                continue;
            }
            if floor.state.images().1 < self.limits.decoded
                && let Some(file) = floor.state.next_file(Instant::now())
            {
                self.release(floor);
                return Some(file);
            }
            floor.hands.sleep();
            floor = wait(&self.hands, floor, None);
            floor.hands.wake();
        }
    }

    /// Takes a decoded image as far as it goes.
    pub(super) fn add_pixels(&self, ticket: &Arc<Ticket>, place: usize, pixels: bytes::Bytes, took: Duration) {
        let mut floor = self.lock();
        floor.state.forecast.decoded(took);
        floor.state.add_pixels(ticket, place, pixels, Instant::now());
        floor = self.copy(floor, 1, false);
        self.release(floor);
    }

    /// Gives up whoever has waited too long, until the engine is gone.
    pub(super) fn keep_time(&self) {
        let heartbeat = HEARTBEAT.min(self.limits.execution / 4);
        let mut floor = self.lock();
        while !floor.is_closed {
            let now = Instant::now();
            let expired = floor.state.expire(now);
            let hung = floor.state.give_up_hung(self.limits.execution, now);
            if expired.is_empty() && hung.is_empty() {
                let next = now + heartbeat;
                floor.clock_wakes = floor.state.next_deadline().map_or(next, |deadline| deadline.min(next));
                let timeout = floor.clock_wakes - now;
                floor = wait(&self.clock, floor, Some(timeout));
                continue;
            }
            self.release(floor);
            for ticket in expired {
                ticket.fail(InferError::Timeout);
            }
            for member in hung {
                self.fail(&member.ticket, InferError::Backend("the execution takes too long".to_owned()));
            }
            floor = self.lock();
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
