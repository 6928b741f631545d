//! Loads that nobody recorded: each has a peak, lasts a while, and is one thing that fleets see.

use std::f64::consts::TAU;

use super::arrivals::{Bursty, Load, Rate, count, index};
use super::random::{Random, Stream};

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// From a sixth of the peak to the peak at once, for the middle third of the time.
    Step,
    /// From a sixth of the peak to the peak in a quarter of the time, and back.
    Ramp,
    /// Two days in the time, each a sine from a sixth to two thirds of the peak, with five spikes of a minute to the peak.
    Diurnal,
    /// The peak for five minutes, then nothing for five.
    OnOff,
    /// Bursts at the peak for a minute on average, four minutes apart on average, a quarter of it in between.
    Bursty,
    /// Half the peak throughout.
    Poisson,
}

impl Shape {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Step, Self::Ramp, Self::Diurnal, Self::OnOff, Self::Bursty, Self::Poisson];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Ramp => "ramp",
            Self::Diurnal => "diurnal",
            Self::OnOff => "on-off",
            Self::Bursty => "bursty",
            Self::Poisson => "poisson",
        }
    }

    /// The load of this kind.
    pub fn load(self, peak: f64, duration_seconds: f64) -> Load {
        let base = peak / 6.0;
        let duration = duration_seconds.max(1.0);
        let curve = |rate: &dyn Fn(f64) -> f64| {
            let per_second = (0..index(duration)).map(|second| rate(count(second))).collect();
            Load::Rate(Rate { bin_seconds: 1.0, per_second })
        };
        match self {
            Self::Step => {
                curve(&|second| if (duration / 3.0..duration * 2.0 / 3.0).contains(&second) { peak } else { base })
            }
            Self::Ramp => curve(&|second| {
                let climbed = (second / (duration / 4.0)).min((duration - second) / (duration / 4.0)).clamp(0.0, 1.0);
                base + (peak - base) * climbed
            }),
            Self::Diurnal => {
                let mut random = Random::new(11, Stream::Phase);
                let spikes: Vec<f64> = (0..5).map(|_| random.unit() * duration).collect();
                curve(&|second| {
                    if spikes.iter().any(|spike| (*spike..*spike + 60.0).contains(&second)) {
                        return peak;
                    }
                    let day = 0.5 - 0.5 * (TAU * second / (duration / 2.0)).cos();
                    base + (peak * 2.0 / 3.0 - base) * day
                })
            }
            Self::OnOff => curve(&|second| if second % 600.0 < 300.0 { peak } else { 0.0 }),
            Self::Bursty => Load::Bursty(Bursty {
                calm_rate: peak / 4.0,
                burst_rate: peak,
                calm_seconds: 240.0,
                burst_seconds: 60.0,
                duration_seconds: duration,
            }),
            Self::Poisson => curve(&|_| peak / 2.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_reaches_its_peak_and_no_more() {
        for shape in Shape::ALL {
            let Load::Rate(rate) = shape.load(120.0, 3600.0) else { continue };
            let highest = rate.per_second.iter().copied().fold(0.0, f64::max);
            let expected = if shape == Shape::Poisson { 60.0 } else { 120.0 };
            assert!((highest - expected).abs() < 1e-9, "{}: {highest}", shape.as_str());
            assert_eq!(rate.per_second.len(), 3600);
        }
    }

    #[test]
    fn a_step_is_six_times_its_base_in_the_middle_third() {
        let Load::Rate(rate) = Shape::Step.load(120.0, 3600.0) else { panic!("a step is a rate") };
        for (second, expected) in [(1199.0, 20.0), (1200.0, 120.0), (2399.0, 120.0), (2400.0, 20.0)] {
            assert!((rate.at(second) - expected).abs() < 1e-9, "at {second} s: {}", rate.at(second));
        }
    }
}
