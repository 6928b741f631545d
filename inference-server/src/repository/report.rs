//! What the time until a model is ready was spent on.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// The phases of a load and their times; a phase of several instances is their sum.
#[derive(Debug, Clone)]
pub struct LoadReport {
    phases: Vec<(String, Duration)>,
    start: Instant,
    mark: Instant,
    total: Duration,
}

impl LoadReport {
    /// A load begins.
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { phases: Vec::new(), start: now, mark: now, total: Duration::ZERO }
    }

    /// The time since the last call belongs to this phase.
    pub(super) fn spent(&mut self, phase: &str) {
        let time = self.mark.elapsed();
        self.add(phase.to_owned(), time);
    }

    /// A phase that was measured elsewhere ends now.
    pub(super) fn add(&mut self, phase: String, time: Duration) {
        match self.phases.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, sum)) => *sum += time,
            None => self.phases.push((phase, time)),
        }
        self.mark = Instant::now();
        self.total = self.start.elapsed();
    }

    /// From the first file read to the last batch tried.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// The phases in their order.
    pub fn phases(&self) -> &[(String, Duration)] {
        &self.phases
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (phase, time)) in self.phases.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{phase} {:.3} s", time.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_keep_their_order_and_instances_add_up() {
        let mut report = LoadReport::start();
        for (phase, milliseconds) in [("session", 20), ("warm_up_2", 1), ("session", 30)] {
            report.add(phase.to_owned(), Duration::from_millis(milliseconds));
        }
        assert_eq!(report.to_string(), "session 0.050 s, warm_up_2 0.001 s");
    }
}
