//! Samples of a counter, as Prometheus keeps them, and what its functions make of them.

use std::collections::VecDeque;

/// Samples by time, oldest first, as far back as the longest window needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    samples: VecDeque<(f64, f64)>,
}

impl Series {
    /// Adds a sample and forgets those older than `keep` seconds.
    pub(super) fn push(&mut self, at: f64, value: f64, keep: f64) {
        self.samples.push_back((at, value));
        while self.samples.front().is_some_and(|(then, _)| at - then > keep) {
            self.samples.pop_front();
        }
    }

    /// The increase over a window, without resets, extrapolated to the window's ends as Prometheus' `rate` and
    /// `increase` do; none with fewer than two samples in it.
    pub(super) fn increase(&self, now: f64, window: f64) -> Option<f64> {
        let inside = || self.samples.iter().filter(move |(at, _)| *at > now - window && *at <= now);
        let mut total = 0.0;
        let mut previous: Option<f64> = None;
        for (_, value) in inside() {
            total += previous.map_or(0.0, |before| if *value < before { *value } else { value - before });
            previous = Some(*value);
        }
        extrapolated(inside().copied(), now, window, total)
    }

    /// The difference between the last and the first sample of a window, extrapolated to its ends: `delta`, which is
    /// meant for gauges and does not see resets.
    pub(super) fn delta(&self, now: f64, window: f64) -> Option<f64> {
        let inside = || self.samples.iter().filter(move |(at, _)| *at > now - window && *at <= now).copied();
        let total = inside().next_back()?.1 - inside().next()?.1;
        extrapolated(inside(), now, window, total)
    }
}

/// Prometheus extends what it saw between the first and the last sample to the window's ends where they are near:
/// within 1.1 mean gaps between samples, else by half a gap.
fn extrapolated(
    mut inside: impl DoubleEndedIterator<Item = (f64, f64)> + Clone,
    now: f64,
    window: f64,
    total: f64,
) -> Option<f64> {
    let samples = super::super::arrivals::count(inside.clone().count());
    let (first, first_value) = inside.next()?;
    let (last, _) = inside.next_back()?;
    let seen = last - first;
    if seen <= 0.0 {
        return None;
    }
    let gap = seen / (samples - 1.0);
    let reach = |distance: f64| if distance < gap * 1.1 { distance } else { gap / 2.0 };
    let mut before = reach(first - (now - window));
    // A counter is not extended below zero.
    if total > 0.0 && first_value >= 0.0 {
        before = before.min(seen * first_value / total);
    }
    Some(total * (seen + before + reach(now - last)) / seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(samples: &[(f64, f64)]) -> Series {
        let mut series = Series::default();
        for (at, value) in samples {
            series.push(*at, *value, 300.0);
        }
        series
    }

    #[test]
    fn increase_is_extrapolated_and_sees_resets() {
        let steady = series(&[(0.0, 1000.0), (15.0, 1150.0), (30.0, 1300.0), (45.0, 1450.0), (60.0, 1600.0)]);
        // Samples at 15 to 60 are in the window of (5, 65]: 450 over 45 s, extended by 10 s and 5 s.
        assert!((steady.increase(65.0, 60.0).unwrap() - 600.0).abs() < 1e-9);
        assert!((steady.delta(65.0, 60.0).unwrap() - 600.0).abs() < 1e-9);
        let reset = series(&[(15.0, 1150.0), (30.0, 1300.0), (45.0, 150.0), (60.0, 300.0)]);
        assert!((reset.increase(60.0, 60.0).unwrap() - 450.0 * 60.0 / 45.0).abs() < 1e-9);
        assert!(reset.delta(60.0, 60.0).unwrap() < 0.0);
    }

    #[test]
    fn a_young_counter_is_not_extended_below_zero() {
        let young = series(&[(40.0, 0.0), (55.0, 150.0)]);
        assert!((young.increase(60.0, 60.0).unwrap() - 150.0 * 20.0 / 15.0).abs() < 1e-9);
        assert_eq!(series(&[(40.0, 0.0)]).increase(60.0, 60.0), None);
    }
}
