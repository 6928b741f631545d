//! Random numbers that are the same on every run: one seeded stream for each thing that varies, so that two policies
//! under the same seed see the same arrivals and the same start-up times.

/// What a stream of random numbers is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Arrivals = 1,
    StartUp = 2,
    Routing = 3,
    Faults = 4,
    Phase = 5,
}

/// A seeded stream.
#[derive(Debug, Clone)]
pub(super) struct Random(fastrand::Rng);

impl Random {
    pub(super) fn new(seed: u64, stream: Stream) -> Self {
        Self(fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream as u64)))
    }

    /// From 0 to below 1.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// A whole number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end.max(1))
    }

    /// Exponential with mean 1.
    pub(super) fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Lognormal: the median times e to the power of `sigma` times a normal number.
    pub(super) fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, stream| {
            let mut random = Random::new(seed, stream);
            [random.unit().to_bits(), random.unit().to_bits()]
        };
        assert_eq!(draw(7, Stream::Arrivals), draw(7, Stream::Arrivals));
        assert_ne!(draw(7, Stream::Arrivals), draw(7, Stream::Routing));
        assert_ne!(draw(7, Stream::Arrivals), draw(8, Stream::Arrivals));
    }

    #[test]
    fn the_distributions_have_their_moments() {
        let mut random = Random::new(1, Stream::StartUp);
        let count = 100_000;
        let (mut exponential, mut normal, mut square, mut below_median) = (0.0, 0.0, 0.0, 0);
        for _ in 0..count {
            exponential += random.exponential() / f64::from(count);
            let drawn = random.normal();
            normal += drawn / f64::from(count);
            square += drawn * drawn / f64::from(count);
            below_median += u32::from(random.lognormal(20.0, 0.3) < 20.0);
        }
        assert!((exponential - 1.0).abs() < 0.02, "{exponential}");
        assert!(normal.abs() < 0.02 && (square - 1.0).abs() < 0.03, "{normal} {square}");
        assert!((f64::from(below_median) / f64::from(count) - 0.5).abs() < 0.01);
    }
}
