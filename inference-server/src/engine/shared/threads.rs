//! What the engine's own threads do: devices and decoders wait for work and take it, and the clock gives up whoever waits too long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Shared, wait};
use crate::engine::{
    InferError,
    batch::Next,
    forming::Memory,
    state::{File, Member, Start},
    ticket::Ticket,
};

/// How often the clock looks for executions that hang.
const HEARTBEAT: Duration = Duration::from_secs(1);

impl Shared {
    /// Waits for a batch and takes it; none when the engine is gone.
    pub(in crate::engine) fn next_batch(&self, instance: usize) -> Option<Start> {
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

    /// An execution has ended: whom to answer.
    pub(in crate::engine) fn end(
        &self,
        instance: usize,
        memory: Option<Memory>,
        took: Option<(usize, Duration)>,
    ) -> Vec<Member> {
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
    pub(in crate::engine) fn next_file(&self) -> Option<File> {
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
    pub(in crate::engine) fn add_pixels(
        &self,
        ticket: &Arc<Ticket>,
        place: usize,
        pixels: bytes::Bytes,
        took: Duration,
    ) {
        let mut floor = self.lock();
        floor.state.forecast.decoded(took);
        floor.state.add_pixels(ticket, place, pixels, Instant::now());
        floor = self.copy(floor, 1, false);
        self.release(floor);
    }

    /// Gives up whoever has waited too long, until the engine is gone.
    pub(in crate::engine) fn keep_time(&self) {
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
}
