//! The clock that measurements and decisions share.

use std::time::Duration;

use tokio::time::Instant;

use crate::scaling::Monotonic;

/// How far before the clock's start a moment may lie, so that older pods than the operator have a time.
const PAST: Duration = Duration::from_hours(24 * 365 * 10);

/// Turns the machine's monotonic clock into the law's time. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// This moment.
    pub fn now(&self) -> Monotonic {
        Monotonic::from_start(PAST + self.started.elapsed())
    }

    /// The moment this long ago: the API server's timestamps are turned into ages first, since its clock is another.
    pub fn ago(&self, age: Duration) -> Monotonic {
        self.now() - age
    }
}
