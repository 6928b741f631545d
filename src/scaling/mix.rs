//! A fleet of unlike replicas, on several GPU products say: how many of them do for a rate, whichever go.

use super::capacity::Capacity;
use super::state::MOST_CLASSES;
use super::whole;

/// Images per second that a replica of each class takes, and how many there are of it; the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Mix {
    classes: [(f64, u32); MOST_CLASSES],
}

impl Mix {
    /// From what is known of each class and how many of its replicas were measured.
    pub(super) fn new(known: &[(Capacity, u32)]) -> Self {
        let mut sorted: Vec<_> = known.iter().map(|(capacity, replicas)| (capacity.within_target, *replicas)).collect();
        sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut classes = [(0.0, 0); MOST_CLASSES];
        for (place, class) in classes.iter_mut().zip(sorted) {
            *place = class;
        }
        Self { classes }
    }

    /// The fewest that take `rate` even where the fastest of those that there are have gone, since nobody knows which of them
    /// Kubernetes removes. 0 where all are alike, or where even all of them do not: the mean speaks then.
    pub(super) fn fewest(&self, rate: f64) -> u32 {
        let unlike = self.classes.iter().filter(|(_, replicas)| *replicas > 0).count() > 1;
        let (mut left, mut fewest) = (rate, 0_u32);
        for (capacity, replicas) in self.classes.iter().filter(|_| unlike) {
            let needed = whole((left / capacity.max(1e-9) - 1e-9).ceil());
            if needed <= *replicas {
                return fewest + needed;
            }
            left -= capacity * f64::from(*replicas);
            fewest += replicas;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::capacity::CapacitySource;
    use super::*;
    use proptest::prelude::*;

    fn mix(classes: &[(f64, u32)]) -> Mix {
        let capacity = |rate| Capacity { within_target: rate, full_speed: rate, source: CapacitySource::Unknown };
        Mix::new(&classes.iter().map(|(rate, replicas)| (capacity(*rate), *replicas)).collect::<Vec<_>>())
    }

    #[test]
    fn as_many_as_do_without_the_fastest() {
        let fleet = mix(&[(200.0, 2), (50.0, 2)]);
        for (rate, fewest) in [(0.0, 0), (40.0, 1), (100.0, 2), (101.0, 3), (300.0, 3), (301.0, 4), (501.0, 0)] {
            assert_eq!(fleet.fewest(rate), fewest, "{rate}/s");
        }
        assert_eq!(mix(&[(200.0, 4)]).fewest(300.0), 0, "of one kind, the mean says it");
    }

    proptest! {
        /// One by one in the order of their speed, it comes to the same.
        #[test]
        fn it_is_what_counting_gives(
            classes in prop::collection::vec((1_u32..500, 1_u32..5), 2..8),
            rate in 0_u32..3000,
        ) {
            let mut each: Vec<u32> = classes.iter().flat_map(|(speed, replicas)| (0..*replicas).map(|_| *speed)).collect();
            each.sort_unstable();
            let sums = each.iter().scan(0, |sum, speed| { *sum += speed; Some(*sum) });
            let counted = if rate == 0 { Some(0) } else { sums.into_iter().position(|sum| sum >= rate).map(|at| at + 1) };
            let classes: Vec<_> = classes.iter().map(|(speed, replicas)| (f64::from(*speed), *replicas)).collect();
            prop_assert_eq!(mix(&classes).fewest(f64::from(rate)), whole(counted.unwrap_or(0)));
        }
    }
}
