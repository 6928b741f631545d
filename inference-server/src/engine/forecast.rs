//! How long a request would wait: an estimate from what was measured, for turning away early who can't be served in time.
//! Pure, with time as an argument.
//!
//! Where something was never measured, the estimate is the shortest that is possible: better to try in vain than to turn
//! somebody away who could have been served.

use std::time::Duration;

/// The weight of the newest measurement.
const NEWEST: f64 = 0.2;
/// Longer than any wait that matters.
const LONGEST: f64 = 3600.0;

/// What was measured so far.
#[derive(Debug, Clone)]
pub struct Forecast {
    max_rows: usize,
    devices: f64,
    decoders: f64,
    /// Seconds of an execution by its rows; the index is the number of rows.
    executions: Vec<Option<f64>>,
    /// The largest batch that was measured.
    largest: usize,
    /// Seconds that one image takes one thread.
    decode: f64,
}

/// What is ahead of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Rows that are to be executed before it.
    pub rows: usize,
    /// Images that are to be decoded before it.
    pub images: usize,
    /// The time until the first device is idle.
    pub busy: Duration,
}

impl Forecast {
    /// Nothing measured yet.
    pub fn new(max_rows: usize, devices: usize, decoders: usize) -> Self {
        let count = |number: usize| f64::from(u32::try_from(number.max(1)).unwrap_or(u32::MAX));
        Self {
            max_rows: max_rows.max(1),
            devices: count(devices),
            decoders: count(decoders),
            executions: vec![None; max_rows + 1],
            largest: 0,
            decode: 0.0,
        }
    }

    /// An execution took so long.
    pub fn executed(&mut self, rows: usize, took: Duration) {
        let took = took.as_secs_f64();
        if let Some(known) = self.executions.get_mut(rows) {
            *known = Some(known.map_or(took, |known| known + NEWEST * (took - known)));
            self.largest = self.largest.max(rows);
        }
    }

    /// An image took so long to decode.
    pub fn decoded(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.decode = if self.decode == 0.0 { took } else { self.decode + NEWEST * (took - self.decode) };
    }

    /// How long an execution of so many rows takes, if one was measured.
    pub fn execution(&self, rows: usize) -> Option<Duration> {
        self.executions.get(rows).copied().flatten().map(Duration::from_secs_f64)
    }

    /// How long a request waits that has this ahead of it: for whole batches before the one that it joins, or for its turn to
    /// be decoded, whichever is longer, because both go on at the same time.
    pub fn wait(&self, ahead: Ahead) -> Duration {
        let full_batch = self.executions.get(self.largest).copied().flatten().unwrap_or(0.0);
        let batches = u32::try_from(ahead.rows / self.max_rows).unwrap_or(u32::MAX);
        let device = ahead.busy.as_secs_f64() + f64::from(batches) * full_batch / self.devices;
        let images = u32::try_from(ahead.images).unwrap_or(u32::MAX);
        let decoder = f64::from(images) * self.decode / self.decoders;
        Duration::from_secs_f64(device.max(decoder).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits() {
        let mut forecast = Forecast::new(8, 2, 4);
        let ahead = |rows, images, busy: u32| Ahead { rows, images, busy: busy * MS };
        assert_eq!(forecast.wait(ahead(800, 800, 0)), Duration::ZERO, "nothing measured, nobody turned away");
        forecast.executed(1, 20 * MS);
        assert_eq!(forecast.wait(ahead(80, 0, 0)), 100 * MS, "a larger batch takes as long at least");
        forecast.executed(8, 60 * MS);
        forecast.decoded(40 * MS);
        for (name, ahead, expected) in [
            ("nothing ahead", ahead(0, 0, 0), 0),
            ("the batch that it joins is not full", ahead(7, 0, 15), 15),
            ("ten batches on two devices", ahead(80, 0, 10), 310),
            ("decoding is the bottleneck", ahead(8, 100, 10), 1000),
        ] {
            assert_eq!(forecast.wait(ahead), expected * MS, "{name}");
        }
    }

    #[test]
    fn measurements_age() {
        let mut forecast = Forecast::new(1, 1, 1);
        forecast.executed(1, 100 * MS);
        for _ in 0..30 {
            forecast.executed(1, 10 * MS);
        }
        assert!(forecast.execution(1).unwrap() < 11 * MS);
        assert_eq!(forecast.execution(2), None);
    }
}
