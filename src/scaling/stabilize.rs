//! What keeps a fleet from moving back and forth: the window that a decrease must outlast, the lockout between two
//! increases that only a growing queue asks for, and the limit on how fast orders may grow.

use std::collections::VecDeque;
use std::time::Duration;

use super::observation::Monotonic;

/// The highest of the wishes within a window, in constant memory: only those that a later, higher one did not replace.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Window {
    since: Option<Monotonic>,
    seen: Option<Monotonic>,
    peaks: VecDeque<(Monotonic, u32)>,
}

/// The last increase, so that the next one knows whether it already got its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LastIncrease {
    pub(super) at: Monotonic,
    pub(super) to: u32,
    /// When the growth began that this increase is a part of, and from how many replicas.
    pub(super) growth_since: Monotonic,
    pub(super) growth_from: u32,
}

/// Orders may double, or grow by this many, in [`GROWTH_PERIOD`].
const GROWTH_STEP: u32 = 4;
const GROWTH_PERIOD: Duration = Duration::from_secs(15);

impl Window {
    /// Notes how many replicas are wanted now. A pause longer than `gap` in which nothing was noted starts the window
    /// anew: nobody knows what was wanted meanwhile.
    pub(super) fn note(&mut self, wanted: u32, now: Monotonic, length: Duration, gap: Duration) {
        if self.seen.is_none_or(|seen| now.since(seen) > gap) {
            self.since = Some(now);
        }
        self.seen = Some(now);
        while self.peaks.back().is_some_and(|(_, peak)| *peak <= wanted) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, wanted));
        while self.peaks.len() > 1 && self.peaks.front().is_some_and(|(at, _)| now.since(*at) > length) {
            self.peaks.pop_front();
        }
    }

    /// The most that was wanted in the window; none while a full window has not been seen.
    pub(super) fn peak(&self, now: Monotonic, length: Duration) -> Option<u32> {
        let complete = self.since.is_some_and(|since| now.since(since) >= length);
        if complete { self.peaks.front().map(|(_, peak)| *peak) } else { None }
    }
}

impl LastIncrease {
    /// The most that may be ordered now.
    pub(super) fn limit(last: Option<Self>, current: u32, now: Monotonic) -> u32 {
        let (_, from) = Self::growth(last, current, now);
        from.saturating_mul(2).max(from.saturating_add(GROWTH_STEP))
    }

    /// Notes an order; repeating one that is not carried out yet is the same order.
    pub(super) fn note(last: Option<Self>, current: u32, to: u32, now: Monotonic) -> Self {
        let (growth_since, growth_from) = Self::growth(last, current, now);
        let repeated = last.filter(|last| last.to == to && now.since(last.at) < GROWTH_PERIOD);
        Self { at: repeated.map_or(now, |last| last.at), to, growth_since, growth_from }
    }

    /// The growth that an order of now belongs to: the one under way, or a new one.
    fn growth(last: Option<Self>, current: u32, now: Monotonic) -> (Monotonic, u32) {
        match last {
            Some(last) if now.since(last.growth_since) < GROWTH_PERIOD => {
                (last.growth_since, last.growth_from.min(current))
            }
            _ => (now, current),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_mins(1);
    const GAP: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn the_peak_is_known_after_a_full_window_and_passes_with_it() {
        let mut window = Window::default();
        for (second, wanted, peak) in [
            (0, 1, None),
            (20, 5, None),
            (40, 2, None),
            (60, 2, Some(5)),
            (80, 3, Some(5)),
            (81, 1, Some(3)),
            (100, 1, Some(3)),
            (120, 1, Some(3)),
            (141, 1, Some(1)),
        ] {
            window.note(wanted, at(second), LENGTH, GAP);
            assert_eq!(window.peak(at(second), LENGTH), peak, "at {second} s");
        }
    }

    #[test]
    fn a_pause_starts_the_window_anew() {
        let mut window = Window::default();
        (0..=70).step_by(10).for_each(|second| window.note(1, at(second), LENGTH, GAP));
        assert_eq!(window.peak(at(70), LENGTH), Some(1));
        window.note(1, at(170), LENGTH, GAP);
        assert_eq!(window.peak(at(170), LENGTH), None);
    }

    #[test]
    fn a_window_stays_small_however_long_it_is() {
        let mut window = Window::default();
        for second in 0..100_000 {
            let wanted = 1 + u32::try_from(second % 7).unwrap();
            window.note(wanted, at(second), Duration::from_hours(25), GAP);
        }
        assert!(window.peaks.len() <= 7, "{}", window.peaks.len());
    }

    #[test]
    fn orders_double_or_grow_by_four_in_fifteen_seconds() {
        let first = LastIncrease::note(None, 1, 5, at(100));
        assert_eq!(LastIncrease::limit(None, 1, at(100)), 5);
        assert_eq!(LastIncrease::limit(Some(first), 5, at(102)), 5);
        assert_eq!(LastIncrease::limit(Some(first), 5, at(115)), 10);
    }

    #[test]
    fn a_second_order_counts_for_the_lockout_but_not_for_a_new_growth() {
        let first = LastIncrease::note(None, 1, 2, at(100));
        let second = LastIncrease::note(Some(first), 2, 5, at(104));
        assert_eq!((second.at, LastIncrease::limit(Some(second), 5, at(106))), (at(104), 5));
        let repeated = LastIncrease::note(Some(second), 2, 5, at(106));
        assert_eq!(repeated.at, at(104));
    }
}
