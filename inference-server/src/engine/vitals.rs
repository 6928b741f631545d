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
#[derive(Debug, Default)]
pub(super) struct Vitals {
    has_died: AtomicBool,
    executing_since: Mutex<Option<Instant>>,
}

/// Held by a thread for its life; a thread that ends in a panic takes the engine's life with it.
pub(super) struct Pulse<'a>(pub(super) &'a Vitals);

impl Vitals {
    /// Declares the engine dead.
    pub(super) fn die(&self) {
        self.has_died.store(true, Ordering::Release);
    }

    /// Notes that an execution begins.
    pub(super) fn begin(&self) {
        *self.executing_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Notes that it has ended.
    pub(super) fn end(&self) {
        *self.executing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether every thread is there and no execution hangs for longer than `limit`.
    pub(super) fn is_alive(&self, limit: Duration) -> bool {
        let since = *self.executing_since.lock().unwrap_or_else(PoisonError::into_inner);
        !self.has_died.load(Ordering::Acquire) && since.is_none_or(|since| since.elapsed() < limit)
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
        let vitals = Arc::new(Vitals::default());
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
        let vitals = Vitals::default();
        vitals.begin();
        assert!(vitals.is_alive(Duration::from_mins(1)));
        thread::sleep(LIMIT);
        assert!(!vitals.is_alive(LIMIT));
        vitals.end();
        assert!(vitals.is_alive(LIMIT));
    }
}
