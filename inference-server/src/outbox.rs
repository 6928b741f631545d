//! Things on their way out: whoever puts one never waits, and one thread takes them away, many at a time.
//!
//! That thread is woken once for a batch and not once for a thing, which is most of what a thing would cost.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A bounded queue that drops what does not fit, and counts it.
#[derive(Debug)]
pub struct Outbox<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    limit: usize,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    weight: usize,
    /// Whether the thread should not wait for more.
    is_urgent: bool,
    is_closed: bool,
}

impl<T> Outbox<T> {
    /// An outbox of things that together weigh at most `limit`; a batch of as much may be on its way meanwhile.
    pub fn new(limit: usize) -> Self {
        let state = State { items: Vec::new(), weight: 0, is_urgent: false, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), limit, dropped: AtomicU64::new(0) }
    }

    /// Puts a thing in, to go out at once where it is urgent and with the next batch where it is not. False when there is no room.
    pub fn put(&self, item: T, weight: usize, is_urgent: bool) -> bool {
        let mut state = self.lock();
        if state.is_closed || state.weight.saturating_add(weight) > self.limit {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        state.items.push(item);
        state.weight += weight;
        // Half full is urgent too: what comes while the batch is on its way needs the room.
        let hurries = (is_urgent || state.weight >= self.limit / 2) && !state.is_urgent;
        state.is_urgent |= hurries;
        let wakes = hurries || state.items.len() == 1;
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        true
    }

    /// Waits for a thing, and then for more of them until `linger` is over or something is urgent. None when the outbox is closed
    /// and empty.
    pub fn take(&self, linger: Duration) -> Option<Vec<T>> {
        let mut state = self.lock();
        while state.items.is_empty() {
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let end = Instant::now() + linger;
        while !state.is_urgent && !state.is_closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.weight = 0;
        state.is_urgent = false;
        Some(std::mem::take(&mut state.items))
    }

    /// Nothing goes in any more; what is in still goes out.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// How many things there was no room for.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that can panic runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    /// Longer than any test runs: whoever waits for it hangs.
    const FOREVER: Duration = Duration::from_hours(1);

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let outbox = Outbox::new(10);
        assert!(outbox.put("a", 6, false));
        assert!(!outbox.put("b", 5, true));
        assert!(outbox.put("c", 4, false), "smaller things still fit");
        assert_eq!(outbox.dropped(), 1);
        assert_eq!(outbox.take(FOREVER), Some(vec!["a", "c"]), "half full, so nobody lingers");
        assert!(outbox.put("d", 10, false), "and there is room again");
    }

    #[test]
    fn the_thread_lingers_for_a_batch_and_not_for_what_is_urgent() {
        let outbox = Outbox::new(100);
        outbox.put(1, 1, false);
        assert_eq!(outbox.take(Duration::from_millis(1)), Some(vec![1]), "the time is over");
        outbox.put(2, 1, false);
        outbox.put(3, 1, true);
        assert_eq!(outbox.take(FOREVER), Some(vec![2, 3]));
        outbox.put(4, 1, false);
        outbox.close();
        assert!(!outbox.put(5, 1, true));
        assert_eq!(outbox.take(FOREVER), Some(vec![4]), "what is in goes out");
        assert_eq!(outbox.take(FOREVER), None);
    }

    #[test]
    fn a_thread_that_waits_is_woken() {
        let outbox = Arc::new(Outbox::new(100));
        let taken = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || std::iter::from_fn(|| outbox.take(FOREVER)).flatten().collect::<Vec<_>>())
        };
        for number in 0..50 {
            while !outbox.put(number, 1, number % 10 == 9) {
                thread::yield_now();
            }
        }
        outbox.close();
        assert_eq!(taken.join().unwrap(), (0..50).collect::<Vec<_>>());
    }
}
