//! When requests arrive: recorded moments, or drawn from a rate that changes over time.

use super::random::{Random, Stream};

/// Most requests that one run holds.
pub const MOST_REQUESTS: usize = 1_000_000;

/// What a service is fed with.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// These very moments, in seconds from the start, in order.
    Recorded(Vec<f64>),
    /// Poisson arrivals at a rate that changes over time.
    Rate(Rate),
    /// Poisson arrivals whose rate jumps between two levels at random (a Markov-modulated process).
    Bursty(Bursty),
}

/// A rate over time: constant within each bin.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// How many seconds each bin is long.
    pub bin_seconds: f64,
    /// Requests per second in each bin.
    pub per_second: Vec<f64>,
}

/// Two levels, and how long each lasts on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursty {
    /// Requests per second outside of bursts.
    pub calm_rate: f64,
    /// Requests per second in a burst.
    pub burst_rate: f64,
    /// Mean seconds between two bursts.
    pub calm_seconds: f64,
    /// Mean seconds of a burst.
    pub burst_seconds: f64,
    /// How long it all lasts.
    pub duration_seconds: f64,
}

/// The arrivals of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrivals {
    /// In seconds from the start, in order.
    pub moments: Vec<f64>,
    /// The rate that they were drawn from, or that they have when smoothed over half a minute.
    pub rate: Rate,
    /// When the run ends: with the load, or where a run can hold no more requests.
    pub end: f64,
    /// Whether the load would have gone on.
    pub cut: bool,
}

/// Recorded moments are smoothed over this time where a rate is needed: shorter bursts are left out of the rate.
pub const SMOOTHING_SECONDS: f64 = 30.0;

impl Load {
    /// The arrivals of the run with this seed.
    pub fn draw(&self, seed: u64) -> Arrivals {
        let mut random = Random::new(seed, Stream::Arrivals);
        match self {
            Self::Recorded(moments) => {
                let cut = moments.len() > MOST_REQUESTS;
                let moments: Vec<f64> = moments.iter().copied().take(MOST_REQUESTS).collect();
                let end = moments.last().copied().unwrap_or_default() + 1.0;
                Arrivals { rate: Rate::of(&moments, SMOOTHING_SECONDS), moments, end, cut }
            }
            Self::Rate(rate) => rate.draw(&mut random),
            Self::Bursty(bursty) => bursty.rate(&mut random).draw(&mut random),
        }
    }
}

impl Rate {
    /// The rate of recorded moments: counted by the second and smoothed by a moving mean.
    pub fn of(moments: &[f64], smoothing_seconds: f64) -> Self {
        let end = moments.last().copied().unwrap_or_default();
        let mut counts = vec![0.0; index(end) + 1];
        for moment in moments {
            counts[index(*moment)] += 1.0;
        }
        Self { bin_seconds: 1.0, per_second: moving_mean(&counts, index(smoothing_seconds).max(1)) }
    }

    /// How long it lasts.
    pub fn duration(&self) -> f64 {
        self.bin_seconds * count(self.per_second.len())
    }

    /// Requests per second at a moment; the last value afterwards.
    pub fn at(&self, seconds: f64) -> f64 {
        let bin = index(seconds / self.bin_seconds);
        self.per_second.get(bin).or(self.per_second.last()).copied().unwrap_or_default()
    }

    /// The same shape at another scale.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for rate in &mut self.per_second {
            *rate *= factor;
        }
        self
    }

    fn draw(&self, random: &mut Random) -> Arrivals {
        let mut moments = Vec::new();
        // Work off an exponential amount of expected arrivals between one arrival and the next.
        let mut left = random.exponential();
        for (bin, rate) in self.per_second.iter().enumerate() {
            let begin = count(bin) * self.bin_seconds;
            let mut position = 0.0;
            while *rate > 0.0 && left <= (self.bin_seconds - position) * rate {
                position += left / rate;
                if moments.len() == MOST_REQUESTS {
                    let end = begin + position;
                    return Arrivals { moments, rate: self.clone(), end, cut: true };
                }
                moments.push(begin + position);
                left = random.exponential();
            }
            left -= (self.bin_seconds - position) * rate;
        }
        Arrivals { moments, rate: self.clone(), end: self.duration(), cut: false }
    }
}

impl Bursty {
    /// One history of levels.
    fn rate(&self, random: &mut Random) -> Rate {
        let mut per_second = Vec::new();
        let (mut burst, mut until) = (false, 0.0);
        for second in 0..index(self.duration_seconds) {
            while count(second) >= until {
                burst = until > 0.0 && !burst;
                until += random.exponential() * if burst { self.burst_seconds } else { self.calm_seconds };
            }
            per_second.push(if burst { self.burst_rate } else { self.calm_rate });
        }
        Rate { bin_seconds: 1.0, per_second }
    }
}

/// A moving mean over `width` values, centred, and narrower at both ends.
fn moving_mean(values: &[f64], width: usize) -> Vec<f64> {
    let mut sums = Vec::with_capacity(values.len() + 1);
    sums.push(0.0);
    let mut sum = 0.0;
    for value in values {
        sum += value;
        sums.push(sum);
    }
    let before = width / 2;
    let after = width - before;
    (0..values.len())
        .map(|position| {
            let (from, to) = (position.saturating_sub(before), (position + after).min(values.len()));
            (sums[to] - sums[from]) / count(to - from)
        })
        .collect()
}

/// A bin of a time that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, which is wanted here")]
pub(super) fn index(number: f64) -> usize {
    number as usize
}

/// A count as a number to calculate with; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^53")]
pub(super) fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_arrivals_have_the_rate_and_repeat() {
        let rate = Rate { bin_seconds: 10.0, per_second: vec![0.0, 200.0, 0.0, 100.0] };
        let load = Load::Rate(rate);
        let arrivals = load.draw(3);
        assert_eq!(arrivals, load.draw(3));
        assert_ne!(arrivals.moments, load.draw(4).moments);
        let within = |from: f64, to: f64| arrivals.moments.iter().filter(|at| (from..to).contains(*at)).count();
        assert_eq!((within(0.0, 10.0), within(20.0, 30.0)), (0, 0));
        assert!((1850..2150).contains(&within(10.0, 20.0)), "{}", within(10.0, 20.0));
        assert!((880..1120).contains(&within(30.0, 40.0)), "{}", within(30.0, 40.0));
        assert!(arrivals.moments.is_sorted());
        assert_eq!((arrivals.end, arrivals.cut), (40.0, false));
    }

    #[test]
    fn a_run_holds_a_million_requests() {
        let arrivals = Load::Rate(Rate { bin_seconds: 100.0, per_second: vec![20_000.0] }).draw(1);
        assert_eq!((arrivals.moments.len(), arrivals.cut), (MOST_REQUESTS, true));
        assert!((arrivals.end - 50.0).abs() < 0.5, "{}", arrivals.end);
    }

    #[test]
    fn smoothing_keeps_the_number_of_requests() {
        let moments: Vec<f64> = (0..600).map(|second| f64::from(second / 60 * 60) + 0.5).collect();
        let rate = Rate::of(&moments, 30.0);
        assert!((rate.per_second.iter().sum::<f64>() - 600.0).abs() < 70.0);
        assert!(rate.per_second.iter().all(|rate| *rate <= 60.0 / 15.0 + 1e-9));
    }

    #[test]
    fn bursts_take_their_share_of_the_time() {
        let bursty = Bursty {
            calm_rate: 1.0,
            burst_rate: 10.0,
            calm_seconds: 90.0,
            burst_seconds: 30.0,
            duration_seconds: 200_000.0,
        };
        let rate = bursty.rate(&mut Random::new(5, Stream::Arrivals));
        let mean = rate.per_second.iter().sum::<f64>() / count(rate.per_second.len());
        assert!((mean - (0.75 + 2.5)).abs() < 0.25, "{mean}");
    }
}
