//! How many images arrive, now and by when a replica that is ordered now will answer.
//!
//! The level is smoothed for as long as it takes to see enough images, so that noise orders nothing, and jumps on a
//! step that was seen twice, so that a real one is believed at once. The trend is the level's slope over a minute; it
//! counts only where it is more than chance, and only upwards: a forecast never removes a replica.

use std::time::Duration;

use super::observation::Monotonic;

/// The smoothing's shortest time constant, in scrape intervals.
const SMOOTHED_INTERVALS: f64 = 3.0;
/// Images that a level rests on, as far as [`LONGEST_SMOOTHING_SECONDS`] allows: their number varies by a tenth or less.
const SMOOTHED_IMAGES: f64 = 200.0;
/// The smoothing's longest time constant.
const LONGEST_SMOOTHING_SECONDS: f64 = 30.0;
/// A change by this factor, seen twice in a row, is a step.
const STEP: f64 = 1.25;
/// Images beyond the level that one interval may bring by chance, at least.
const CHANCE_IMAGES: f64 = 4.0;
/// Deviations of a Poisson number beyond which it is no chance.
const CHANCE_DEVIATIONS: f64 = 3.0;
/// The trend's time constant: shorter ones see noise, longer ones see a ramp too late.
const TREND_SECONDS: f64 = 45.0;
/// Deviations of the slope of steady arrivals beyond which a trend is no chance.
const TREND_DEVIATIONS: f64 = 3.0;
/// Part of a trend that is followed into the future (a damped trend; Gardner and McKenzie 1985).
const TREND_DAMPING: f64 = 0.5;
/// Most that a forecast adds, as part of the level.
const MOST_FORECAST: f64 = 0.5;

/// The smoothed arrivals; absent until the first measurement.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Demand {
    seen: Option<Seen>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    at: Monotonic,
    level: f64,
    latest: f64,
    /// A slower level, without its jumps, and its slope in images per second and second.
    slow: f64,
    trend: f64,
    /// How long the trend has been watched since the last jump.
    watched: f64,
}

impl Demand {
    /// Takes in a round of measurements; true when it was a new one.
    pub(super) fn update(&mut self, arrivals: f64, at: Monotonic, interval: Duration) -> bool {
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Seen { at, level: arrivals, latest: arrivals, slow: arrivals, trend: 0.0, watched: 0.0 });
            return true;
        };
        // Pods are scraped at their own phases; half an interval makes one round of them.
        let elapsed = at.since(seen.at);
        if elapsed < interval / 2 {
            return false;
        }
        seen.take(arrivals, elapsed.as_secs_f64(), interval.as_secs_f64());
        seen.at = at;
        true
    }

    /// Images per second.
    pub(super) fn level(&self) -> Option<f64> {
        // An exponential never reaches zero; an image every ten minutes is none.
        self.seen.as_ref().map(|seen| if seen.level < 1.0 / 600.0 { 0.0 } else { seen.level })
    }

    /// Images per second that the level rises by, in each second; 0 where it doesn't, or not more than by chance.
    pub(super) fn trend(&self) -> f64 {
        self.seen.as_ref().map_or(0.0, Seen::certain_trend)
    }

    /// What the trend adds to the level by then.
    pub(super) fn rise_within(&self, horizon: Duration) -> f64 {
        let rise = TREND_DAMPING * self.trend() * horizon.as_secs_f64();
        rise.min(MOST_FORECAST * self.level().unwrap_or_default())
    }
}

impl Seen {
    fn take(&mut self, arrivals: f64, elapsed: f64, interval: f64) {
        let (lower, higher) = (arrivals.min(self.latest), arrivals.max(self.latest));
        if lower > self.level * STEP + chance(self.level, interval) {
            self.jump(lower);
        } else if higher * STEP + chance(higher, interval) < self.level {
            self.jump(higher);
        } else {
            let enough = (SMOOTHED_IMAGES / self.level.max(1e-9)).min(LONGEST_SMOOTHING_SECONDS);
            let smoothing = enough.max(SMOOTHED_INTERVALS * interval);
            self.level += (1.0 - (-elapsed / smoothing).exp()) * (arrivals - self.level);
            self.follow(elapsed);
        }
        self.latest = arrivals;
    }

    /// A step is no trend: both levels move, and the slope is watched anew.
    fn jump(&mut self, level: f64) {
        (self.level, self.slow, self.trend, self.watched) = (level, level, 0.0, 0.0);
    }

    /// Holt's two smoothings: of the level, and of its slope.
    fn follow(&mut self, elapsed: f64) {
        let weight = 1.0 - (-elapsed / TREND_SECONDS).exp();
        let rise = weight * (self.level - self.slow);
        self.slow += rise;
        self.trend += weight * (rise / elapsed.max(1e-9) - self.trend);
        self.watched += elapsed;
    }

    /// The trend, where it is more than chance makes of steady arrivals: smoothed twice with the time constant `t`,
    /// the slope of Poisson arrivals at a rate `r` has the variance `r / (4 t^3)`.
    fn certain_trend(&self) -> f64 {
        let deviation = (self.level.max(0.0) / (4.0 * TREND_SECONDS.powi(3))).sqrt();
        let is_certain = self.watched >= TREND_SECONDS && self.trend > TREND_DEVIATIONS * deviation;
        if is_certain { self.trend } else { 0.0 }
    }
}

/// How much one interval may differ by chance, in images per second.
fn chance(level: f64, interval: f64) -> f64 {
    CHANCE_IMAGES.max(CHANCE_DEVIATIONS * (level * interval).max(0.0).sqrt()) / interval
}

/// The rate that an interval's arrivals show beyond doubt: two deviations of a Poisson number below what was seen.
pub(super) fn certain_rate(arrivals: f64, interval: Duration) -> f64 {
    let interval = interval.as_secs_f64().max(1e-9);
    let images = arrivals * interval;
    ((images - 2.0 * images.max(0.0).sqrt()) / interval).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn told(arrivals: impl IntoIterator<Item = f64>) -> Demand {
        let mut demand = Demand::default();
        for (round, arrivals) in (0..).zip(arrivals) {
            demand.update(arrivals, Monotonic::from_start(INTERVAL * round), INTERVAL);
        }
        demand
    }

    fn levels(arrivals: &[f64]) -> Vec<u32> {
        let level = |count| super::super::whole(told(arrivals[..count].iter().copied()).level().unwrap().round());
        (1..=arrivals.len()).map(level).collect()
    }

    #[test]
    fn a_step_is_believed_when_seen_twice_and_a_spike_is_not() {
        // The load starts in the middle of the second interval.
        assert_eq!(levels(&[0.0, 200.0, 400.0, 400.0, 400.0]), [0, 13, 200, 400, 400]);
        assert_eq!(levels(&[200.0, 200.0, 800.0, 200.0, 200.0]), [200, 200, 370, 322, 200]);
        assert_eq!(levels(&[400.0, 400.0, 150.0, 0.0, 0.0, 0.0]), [400, 400, 329, 150, 0, 0]);
    }

    #[test]
    fn few_images_are_smoothed_for_longer() {
        // Four a second: an interval has 4 to 14 of them by chance.
        let noisy = [8.0, 4.0, 14.0, 6.0, 9.0, 7.0, 12.0, 5.0].map(|images| images / 2.0);
        let levels: Vec<f64> = (1..=8).map(|count| told(noisy[..count].iter().copied()).level().unwrap()).collect();
        assert!(levels.iter().all(|level| (3.7..4.3).contains(level)), "{levels:?}");
    }

    #[test]
    fn a_ramp_has_a_trend_and_noise_and_steps_have_none() {
        let ramp = told((0..150).map(|round| 100.0 + f64::from(round)));
        assert!((ramp.trend() - 0.5).abs() < 0.05, "half an image a second, each second: {}", ramp.trend());
        let rise = ramp.rise_within(Duration::from_mins(1));
        assert!((rise - 15.0).abs() < 1.5, "half of what the trend promises: {rise}");
        let steady = told((0..150).map(|round| if round % 2 == 0 { 90.0 } else { 110.0 }));
        assert!(steady.trend() <= 0.0);
        let step = told((0..150).map(|round| if round < 75 { 50.0 } else { 300.0 }));
        assert!(step.trend() <= 0.0 && (step.level().unwrap() - 300.0).abs() < 1e-6);
        let falling = told((0..150).map(|round| 400.0 - f64::from(round)));
        assert!(falling.rise_within(Duration::from_mins(1)) <= 0.0, "a forecast never goes down");
    }

    #[test]
    fn the_same_round_seen_again_changes_nothing() {
        let mut demand = Demand::default();
        let at = Monotonic::from_start(INTERVAL);
        assert!(demand.update(10.0, at, INTERVAL));
        let before = demand.clone();
        assert!(!demand.update(500.0, at, INTERVAL));
        assert_eq!(demand, before);
    }

    #[test]
    fn a_rate_is_certain_as_far_as_its_number_is() {
        assert!((certain_rate(200.0, INTERVAL) - 180.0).abs() < 1e-9);
        assert!(certain_rate(2.0, INTERVAL).abs() < 1e-9, "four images may be chance");
    }
}
