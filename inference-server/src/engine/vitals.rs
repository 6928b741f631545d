//! Whether the engine's threads still do their work: what the liveness probe is told.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The state of the engine's threads.
#[derive(Debug)]
pub(super) struct Vitals {
    has_died: AtomicBool,
    /// One for each device.
    executing_since: Vec<Mutex<Option<Instant>>>,
}

/// Held by a thread for its life; a thread that ends in a panic takes the engine's life with it.
pub(super) struct Pulse<'a>(pub(super) &'a Vitals);

impl Vitals {
    /// The state of an engine with `devices` devices.
    pub(super) fn new(devices: usize) -> Self {
        Self { has_died: AtomicBool::new(false), executing_since: (0..devices).map(|_| Mutex::default()).collect() }
    }

    /// Declares the engine dead.
    pub(super) fn die(&self) {
        self.has_died.store(true, Ordering::Release);
    }

    /// Notes that an execution begins.
    pub(super) fn begin(&self, device: usize) {
        self.note(device, Some(Instant::now()));
    }

    /// Notes that it has ended.
    pub(super) fn end(&self, device: usize) {
        self.note(device, None);
    }

    fn note(&self, device: usize, since: Option<Instant>) {
        if let Some(place) = self.executing_since.get(device) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = since;
        }
    }

    /// Whether every thread is there and no execution hangs for longer than `limit`.
    pub(super) fn is_alive(&self, limit: Duration) -> bool {
        let hangs = |place: &Mutex<Option<Instant>>| {
            place.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() >= limit)
        };
        !self.has_died.load(Ordering::Acquire) && !self.executing_since.iter().any(hangs)
    }
}

impl Drop for Pulse<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.die();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[test]
    fn a_thread_that_panics_is_missed_and_one_that_ends_is_not() {
        let vitals = Arc::new(Vitals::new(1));
        let run = |panics: bool| {
            let vitals = Arc::clone(&vitals);
            let thread = thread::spawn(move || {
                let _pulse = Pulse(&vitals);
                assert!(!panics, "on purpose");
            });
            drop(thread.join());
        };
        run(false);
        assert!(vitals.is_alive(LIMIT));
        run(true);
        assert!(!vitals.is_alive(LIMIT));
    }

    #[test]
    fn an_execution_that_hangs_is_missed() {
        let vitals = Vitals::new(2);
        vitals.begin(1);
        assert!(vitals.is_alive(Duration::from_mins(1)));
        thread::sleep(LIMIT);
        assert!(!vitals.is_alive(LIMIT));
        vitals.end(1);
        assert!(vitals.is_alive(LIMIT));
    }
}
