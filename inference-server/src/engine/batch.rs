//! When to run a batch and what fits into it: pure, with time as an argument.
//!
//! Requests join the open batch while the devices are busy, so that batches grow with the load and an idle device never waits,
//! unless a delay was asked for. Each takes what room there is, and goes on in the next batch with what it has left. One whose
//! rows have another shape closes the batch: there is no looking past it.

use std::time::Duration;

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The most rows in a batch.
    pub max_rows: usize,
    /// How long an idle device waits for more, counted from when the oldest member could have run.
    pub max_delay: Duration,
}

/// The batch that is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Its rows.
    pub rows: usize,
    /// How long its oldest member has been able to run.
    pub age: Duration,
    /// Whether nobody else can join.
    pub is_closed: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Hand the batch to the device.
    Run,
    /// Nothing before a request arrives or the device becomes idle.
    Wait,
    /// The same, but run after this time at the latest.
    WaitAtMost(Duration),
}

impl Policy {
    /// Decides about the open batch.
    pub fn next(&self, open: Open, device_is_idle: bool) -> Next {
        if open.rows == 0 || !device_is_idle {
            return Next::Wait;
        }
        if open.is_closed || open.rows >= self.max_rows || open.age >= self.max_delay {
            return Next::Run;
        }
        Next::WaitAtMost(self.max_delay.saturating_sub(open.age))
    }
}

/// The rows that a device runs for a batch of `rows`: those of the smallest bucket that holds them, or just these where there
/// is none.
pub fn bucket(buckets: &[usize], rows: usize) -> usize {
    buckets.iter().copied().filter(|bucket| *bucket >= rows).min().unwrap_or(rows)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn decisions() {
        let eager = Policy { max_rows: 4, max_delay: Duration::ZERO };
        let patient = Policy { max_rows: 4, max_delay: 10 * MS };
        for (name, policy, open, idle, expected) in [
            ("nothing to run", eager, (0, 0, false), true, Next::Wait),
            ("an idle device takes one row at once", eager, (1, 0, false), true, Next::Run),
            ("a busy device lets the batch grow", eager, (3, 50, false), false, Next::Wait),
            ("a full batch waits for a busy device too", eager, (4, 50, true), false, Next::Wait),
            ("a delay holds a young batch", patient, (1, 4, false), true, Next::WaitAtMost(6 * MS)),
            ("a delay ends", patient, (1, 10, false), true, Next::Run),
            ("a full batch does not wait for the delay", patient, (4, 0, false), true, Next::Run),
            ("a closed batch does not wait for the delay", patient, (2, 0, true), true, Next::Run),
        ] {
            let open = Open { rows: open.0, age: open.1 * MS, is_closed: open.2 };
            assert_eq!(policy.next(open, idle), expected, "{name}");
        }
    }

    #[test]
    fn buckets() {
        for (buckets, rows, expected) in
            [(&[][..], 3, 3), (&[1, 2, 4, 8], 3, 4), (&[8, 4, 1], 4, 4), (&[1, 4], 5, 5), (&[4], 0, 4)]
        {
            assert_eq!(bucket(buckets, rows), expected, "{rows} in {buckets:?}");
        }
    }

    proptest! {
        /// A device that takes some time for each batch, fed by arrivals: every row runs once, in order, in a batch that is no
        /// larger than allowed, and an idle device leaves nobody waiting longer than the delay.
        #[test]
        fn every_row_runs_once_in_order(
            arrivals in prop::collection::vec((0_u64..40, 1_usize..=20), 1..60),
            max_delay in 0_u64..20,
            run_time in 1_u64..30,
        ) {
            let policy = Policy { max_rows: 8, max_delay: Duration::from_millis(max_delay) };
            let mut clock = 0;
            let mut waiting: VecDeque<(usize, u64)> = VecDeque::new();
            for (id, (gap, rows)) in arrivals.iter().enumerate() {
                clock += gap;
                waiting.extend(std::iter::repeat_n((id, clock), *rows));
            }
            let expected: Vec<usize> = waiting.iter().map(|row| row.0).collect();
            let (mut now, mut busy_until, mut ran) = (0, 0, Vec::new());
            let mut open: Vec<(usize, u64)> = Vec::new();
            while ran.len() < expected.len() {
                while open.len() < policy.max_rows && waiting.front().is_some_and(|row| row.1 <= now) {
                    open.extend(waiting.pop_front());
                }
                let age = Duration::from_millis(open.first().map_or(0, |row| now - row.1));
                let state = Open { rows: open.len(), age, is_closed: open.len() == policy.max_rows };
                if policy.next(state, busy_until <= now) == Next::Run {
                    let could_run = open[0].1.max(busy_until);
                    prop_assert!(now - could_run <= max_delay, "an idle device waited too long");
                    ran.extend(open.drain(..).map(|row| row.0));
                    busy_until = now + run_time;
                }
                now += 1;
            }
            prop_assert_eq!(ran, expected);
        }
    }
}
