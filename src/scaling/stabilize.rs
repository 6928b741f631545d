//! What keeps a fleet from moving back and forth: the window that a decrease must outlast, the lockout between two
//! increases that only a growing queue asks for, and the limits on how fast orders may grow and shrink.

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
    /// Whether so many were ordered since: where somebody else orders, an increase may only be wished for.
    pub(super) carried_out: bool,
}

/// The last decrease, and the number from which it began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LastDecrease {
    since: Monotonic,
    from: u32,
}

/// Orders may grow by this factor, or by [`GROWTH_STEP`], in [`PERIOD`]. Demand that was seen twice is real, so this is
/// twice what a HorizontalPodAutoscaler allows; it bounds what a misreading may cost.
const GROWTH_FACTOR: u32 = 4;
const GROWTH_STEP: u32 = 8;
/// In [`PERIOD`] half of the replicas may go, or this many: what is left shows whether the model was right.
const SHRINK_STEP: u32 = 2;
/// The time that the limits are for, as a HorizontalPodAutoscaler's.
const PERIOD: Duration = Duration::from_secs(15);

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

    /// The most that was wanted in the last `length`; none while nothing was noted for as long as `least`.
    pub(super) fn peak(&self, now: Monotonic, least: Duration, length: Duration) -> Option<u32> {
        self.since.filter(|since| now.since(*since) >= least)?;
        // Later ones are lower, so the first that is young enough is the highest; the last one still stands.
        let young = self.peaks.iter().find(|(at, _)| now.since(*at) <= length);
        young.or(self.peaks.back()).map(|(_, peak)| *peak)
    }

    /// How long until a peak of the last `length` is below `replicas`, if nothing asks for so many any more.
    pub(super) fn falls_below(&self, replicas: u32, now: Monotonic, least: Duration, length: Duration) -> Duration {
        let full = self.since.map_or(least, |since| (since + least).since(now));
        let newest = self.peaks.iter().rev().find(|(_, peak)| *peak >= replicas);
        newest.map_or(Duration::ZERO, |(at, _)| (*at + length).since(now)).max(full)
    }
}

impl LastIncrease {
    /// The most that may be ordered now.
    pub(super) fn limit(last: Option<Self>, current: u32, now: Monotonic) -> u32 {
        let (_, from) = Self::growth(last, current, now);
        from.saturating_mul(GROWTH_FACTOR).max(from.saturating_add(GROWTH_STEP))
    }

    /// Notes an order; repeating one that is not carried out yet is the same order.
    pub(super) fn note(last: Option<Self>, current: u32, to: u32, now: Monotonic) -> Self {
        let (growth_since, growth_from) = Self::growth(last, current, now);
        let repeated = last.filter(|last| last.to == to && now.since(last.at) < PERIOD);
        Self { at: repeated.map_or(now, |last| last.at), to, growth_since, growth_from, carried_out: false }
    }

    /// Takes in what is ordered now, and was at the last look: orders may be carried out late or never, and somebody else
    /// may order more, which takes as long to show.
    pub(super) fn follow(last: Option<Self>, before: Option<u32>, ordered: u32, now: Monotonic) -> Option<Self> {
        match (last, before) {
            (Some(last), _) if !last.carried_out && ordered >= last.to => {
                let at = if now.since(last.at) < PERIOD { last.at } else { now };
                Some(Self { at, carried_out: true, ..last })
            }
            (_, Some(before)) if ordered > before && last.is_none_or(|last| last.carried_out) => {
                Some(Self { carried_out: true, ..Self::note(last, before, ordered, now) })
            }
            _ => last,
        }
    }

    /// The growth that an order of now belongs to: the one under way, or a new one where nobody carried that out.
    fn growth(last: Option<Self>, current: u32, now: Monotonic) -> (Monotonic, u32) {
        let is_under_way =
            |last: &Self| now.since(last.growth_since) < PERIOD && (last.carried_out || current > last.growth_from);
        match last.filter(is_under_way) {
            Some(last) => (last.growth_since, last.growth_from.min(current)),
            None => (now, current),
        }
    }
}

impl LastDecrease {
    /// The fewest that may be left now.
    pub(super) fn limit(last: Option<Self>, current: u32, now: Monotonic) -> u32 {
        let from = Self::note(last, current, now).from;
        from.saturating_sub(SHRINK_STEP.max(from / 2))
    }

    /// Notes a decrease: of the one under way, or a new one where nobody carried that out.
    pub(super) fn note(last: Option<Self>, current: u32, now: Monotonic) -> Self {
        let is_under_way = |last: &Self| now.since(last.since) < PERIOD && current < last.from;
        last.filter(is_under_way).unwrap_or(Self { since: now, from: current })
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
            assert_eq!(window.peak(at(second), LENGTH, LENGTH), peak, "at {second} s");
        }
    }

    #[test]
    fn a_pause_starts_the_window_anew() {
        let mut window = Window::default();
        (0..=70).step_by(10).for_each(|second| window.note(1, at(second), LENGTH, GAP));
        assert_eq!(window.peak(at(70), LENGTH, LENGTH), Some(1));
        window.note(1, at(170), LENGTH, GAP);
        assert_eq!(window.peak(at(170), LENGTH, LENGTH), None);
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
    fn a_longer_memory_has_an_older_peak() {
        let mut window = Window::default();
        for (second, wanted) in [(0, 9), (60, 6), (120, 3), (180, 2)] {
            window.note(wanted, at(second), LENGTH * 4, Duration::from_mins(2));
        }
        let peak = |length| window.peak(at(200), LENGTH, length);
        assert_eq!([LENGTH, LENGTH * 2, LENGTH * 3, LENGTH * 4].map(peak), [Some(2), Some(3), Some(6), Some(9)]);
        assert_eq!(window.peak(at(200), LENGTH * 4, LENGTH), None);
    }

    #[test]
    fn the_time_until_a_peak_has_passed_is_known() {
        let mut window = Window::default();
        for (second, wanted) in [(0, 4), (20, 3), (40, 2)] {
            window.note(wanted, at(second), LENGTH, GAP);
        }
        let seconds = |replicas| window.falls_below(replicas, at(40), LENGTH, LENGTH).as_secs();
        assert_eq!([5, 4, 3, 2].map(seconds), [20, 20, 40, 60], "until a full window was seen, and the peak is old");
    }

    #[test]
    fn orders_grow_fourfold_or_by_eight_in_fifteen_seconds() {
        let first = LastIncrease::note(None, 1, 9, at(100));
        assert_eq!(LastIncrease::limit(None, 1, at(100)), 9);
        assert_eq!(LastIncrease::limit(Some(first), 9, at(102)), 9);
        assert_eq!(LastIncrease::limit(Some(first), 9, at(115)), 36);
    }

    #[test]
    fn half_or_two_go_in_fifteen_seconds() {
        for (current, left) in [(2, 0), (3, 1), (4, 2), (8, 4), (9, 5)] {
            assert_eq!(LastDecrease::limit(None, current, at(100)), left, "of {current}");
        }
        let last = LastDecrease::note(None, 8, at(100));
        assert_eq!(
            LastDecrease::note(Some(last), 8, at(114)),
            LastDecrease::note(None, 8, at(114)),
            "nobody acted on it"
        );
        assert_eq!(LastDecrease::limit(Some(last), 4, at(114)), 4);
        assert_eq!(LastDecrease::limit(Some(last), 4, at(115)), 2);
    }

    #[test]
    fn an_order_is_carried_out_when_so_many_are_ordered_and_one_of_somebody_else_is_one() {
        let wished = LastIncrease::note(None, 2, 5, at(100));
        let followed = |last, before, ordered| LastIncrease::follow(last, Some(before), ordered, at(104));
        assert_eq!(followed(Some(wished), 2, 2), Some(wished), "nobody acted on it");
        assert_eq!(followed(Some(wished), 2, 3), Some(wished), "not as far as this");
        let done = LastIncrease { carried_out: true, ..wished };
        assert_eq!(followed(Some(wished), 2, 6), Some(done));
        let late = LastIncrease::follow(Some(wished), Some(2), 5, at(200)).unwrap();
        assert_eq!((late.at, late.carried_out), (at(200), true), "its answer is to be waited for from then on");
        assert_eq!(followed(Some(done), 5, 3), Some(done), "what is lowered later was carried out all the same");
        let theirs = followed(None, 2, 4).unwrap();
        assert_eq!((theirs.at, theirs.to, theirs.carried_out), (at(104), 4, true));
        assert_eq!(followed(Some(theirs), 4, 4), Some(theirs), "seen again, nothing changes");
        assert_eq!(LastIncrease::follow(None, None, 4, at(104)), None, "what was there at the first look is no order");
    }

    #[test]
    fn a_second_order_counts_for_the_lockout_but_not_for_a_new_growth() {
        let first = LastIncrease::note(None, 1, 2, at(100));
        let second = LastIncrease::note(Some(first), 2, 5, at(104));
        assert_eq!((second.at, LastIncrease::limit(Some(second), 5, at(106))), (at(104), 9));
        let repeated = LastIncrease::note(Some(second), 2, 5, at(106));
        assert_eq!(repeated.at, at(104));
    }
}
