//! What a caller's thread does: from a request that wants to be admitted to as far as it goes at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Draft, Floor, SMALL_COPY, Shared};
use crate::engine::{
    InferError,
    batch::Next,
    state::Start,
    ticket::{Content, Ticket},
};

/// What is larger is not copied by the caller's thread, which also serves the network.
const LARGE_COPY: usize = 4 << 20;
/// A batch that takes no longer is run by the caller: to wake the device's thread, and by it the caller's, costs as much. The
/// network waits as long.
const QUICK: Duration = Duration::from_micros(50);
/// The device of an engine that has but one.
const ONLY: usize = 0;
/// Nobody who finds the queue full is told to come back sooner.
const SOONEST_RETRY: Duration = Duration::from_millis(100);

impl Shared {
    /// Admits a request and takes it as far as it goes. A batch that comes back with it is for the caller to run.
    ///
    /// # Errors
    /// When there is no place for it, or no time.
    pub(in crate::engine) fn submit(&self, draft: Draft) -> Result<(Arc<Ticket>, Option<Start>), InferError> {
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
        if self.may_lend(&floor, ticket.rows)
            && let Some(start) = floor.state.start_alone(&ticket, ONLY, now, SMALL_COPY)
        {
            floor.lend();
            return Ok((ticket, Some(start)));
        }
        floor.state.admit(&ticket, now);
        if !has_images && !is_large {
            floor = self.copy(floor, 1, false);
        }
        let start = self.lend(&mut floor, now);
        self.release(floor);
        Ok((ticket, start))
    }

    /// Whether a batch of so many rows is so quick that the only device's thread had better sleep on.
    fn may_lend(&self, floor: &Floor, rows: usize) -> bool {
        let is_quick = || floor.state.forecast.execution(rows).is_some_and(|took| took <= QUICK);
        self.can_lend && !floor.is_lent && floor.devices.asleep() > 0 && is_quick()
    }

    /// The batch that the only device would run now, where the caller may.
    fn lend(&self, floor: &mut Floor, now: Instant) -> Option<Start> {
        let forming = floor.state.forming()?;
        let (rows, next) = (forming.rows(), self.next(forming, now));
        if next != (Next::Run, true) || !self.may_lend(floor, rows) {
            return None;
        }
        let start = floor.state.start(ONLY, now)?;
        floor.lend();
        Some(start)
    }

    /// The caller is gone: true when its request still waited.
    pub(in crate::engine) fn leave(&self, ticket: &Ticket) -> bool {
        ticket.close();
        let mut floor = self.lock();
        let has_waited = floor.state.leave(ticket);
        self.release(floor);
        has_waited
    }

    /// The request ends with an error, unless it has its answer.
    pub(in crate::engine) fn fail(&self, ticket: &Ticket, error: InferError) {
        let mut floor = self.lock();
        floor.state.leave(ticket);
        self.release(floor);
        ticket.fail(error);
    }
}
