//! Which of some replicas is slower than the others whatever line they all have: nothing need be known of it.

use super::observation::BatchDelta;

/// Beyond any line by this factor is slow, and no noise of a measurement.
const SLOWER: f64 = 3.0;
/// Executions with which a replica is a measure for others.
const EVIDENCE: f64 = 5.0;

/// What was executed, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    pub(super) executions: f64,
    pub(super) images: f64,
    pub(super) seconds: f64,
}

impl Speed {
    /// All of these executions; none where there are none.
    pub(super) fn of(batches: &[BatchDelta]) -> Option<Self> {
        let sum = |of: fn(&BatchDelta) -> f64| batches.iter().map(of).sum::<f64>();
        let speed = Self {
            executions: sum(|batch| batch.executions),
            images: sum(|batch| batch.executions * batch.size),
            seconds: sum(|batch| batch.seconds),
        };
        speed.is_known().then_some(speed)
    }

    /// Whether it is far slower than more than half of the others that are a measure.
    pub(super) fn is_slower_than_most<'a>(&self, others: impl Iterator<Item = &'a Self>) -> bool {
        let (mut all, mut quicker) = (0, 0);
        for other in others.filter(|other| other.executions >= EVIDENCE) {
            all += 1;
            quicker += u32::from(self.is_slower_than(other));
        }
        self.is_known() && quicker * 2 > all
    }

    /// An image of a batch of `b` takes `alpha + tau0 / b`, so of two replicas with one line the one with the smaller batches
    /// takes longer for an image by the ratio of the sizes at most, and the other one no longer.
    fn is_slower_than(&self, other: &Self) -> bool {
        let an_image = |speed: &Self| speed.seconds / speed.images;
        let size = |speed: &Self| speed.images / speed.executions;
        an_image(self) > SLOWER * an_image(other) * (size(other) / size(self)).max(1.0)
    }

    fn is_known(&self) -> bool {
        self.executions > 0.0 && self.images > 0.0 && self.seconds > 0.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn speed(size: f64, executions: f64, each: f64) -> Speed {
        Speed::of(&[BatchDelta { size, executions, seconds: executions * each }]).unwrap()
    }

    #[test]
    fn one_is_slow_beside_most_of_the_others() {
        let (quick, slow) = (speed(4.0, 20.0, 0.030), speed(16.0, 2.0, 1.8));
        let few = speed(4.0, 2.0, 0.030);
        for (one, others, expected) in [
            (slow, vec![quick], true),
            (quick, vec![slow], false),
            (slow, vec![quick, quick, slow], true),
            (slow, vec![few], false),
            (quick, vec![quick, speed(4.0, 20.0, 0.003)], false),
            (slow, vec![], false),
        ] {
            assert_eq!(one.is_slower_than_most(others.iter()), expected, "{one:?} {others:?}");
        }
        assert_eq!(Speed::of(&[]), None);
    }

    proptest! {
        #[test]
        fn of_two_with_one_line_neither_is_slow(
            alpha in 0.0..0.1_f64, tau0 in 1e-6..1.0_f64, left in 1.0..128.0_f64, right in 1.0..128.0_f64,
        ) {
            let at_work = |size: f64| speed(size, 50.0, alpha * size + tau0);
            prop_assert!(!at_work(left).is_slower_than_most([at_work(right)].iter()));
        }
    }
}
