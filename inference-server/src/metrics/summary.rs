//! `nv_inference_*_summary_us`: quantiles of the last minute, as Triton has them, for those who ask for them. They can't be added
//! over servers, which is why the queue's histogram is the signal and these are off by default.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use prometheus::{
    Error,
    core::{Collector, Desc, Describer as _},
    proto::{Metric, MetricFamily, MetricType, Quantile, Summary as Values},
};

/// The quantiles that Triton shows by default.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 0.999];
/// The minute is made of parts, of which the oldest is dropped whole.
const PARTS: usize = 5;
const PART: Duration = Duration::from_secs(12);
const WINDOW: Duration = Duration::from_mins(1);
/// Values within one percent, up to an hour; longer ones count as that.
const DIGITS: u8 = 2;
const HIGHEST_MICROSECONDS: u64 = 3_600_000_000;

/// One summary.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    desc: Desc,
    window: Arc<Mutex<Window>>,
}

impl Summary {
    pub(super) fn new(opts: &prometheus::Opts) -> Result<Self, Error> {
        let window = Window::new(Instant::now()).map_err(|error| Error::Msg(error.to_string()))?;
        Ok(Self { desc: opts.describe()?, window: Arc::new(Mutex::new(window)) })
    }

    pub(super) fn observe(&self, microseconds: u64) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).record(microseconds, Instant::now());
    }
}

impl Collector for Summary {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut values = Values::default();
        {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            let quantiles = window.quantiles(Instant::now());
            values.set_sample_count(window.count);
            #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds stays below 2^53 for centuries")]
            values.set_sample_sum(window.sum as f64);
            values.set_quantile(
                QUANTILES
                    .iter()
                    .zip(quantiles)
                    .map(|(quantile, value)| {
                        let mut pair = Quantile::default();
                        pair.set_quantile(*quantile);
                        pair.set_value(value);
                        pair
                    })
                    .collect(),
            );
        }
        let mut metric = Metric::from_label(self.desc.const_label_pairs.clone());
        metric.set_summary(values);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::SUMMARY);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

/// The values of the last minute; sum and count are of all time. Pure, with time as an argument.
#[derive(Debug)]
struct Window {
    /// The newest last, each with its beginning.
    parts: VecDeque<(Instant, Histogram<u32>)>,
    count: u64,
    sum: u64,
}

impl Window {
    fn new(now: Instant) -> Result<Self, hdrhistogram::CreationError> {
        let empty = Histogram::new_with_max(HIGHEST_MICROSECONDS, DIGITS)?;
        Ok(Self { parts: VecDeque::from([(now, empty)]), count: 0, sum: 0 })
    }

    fn record(&mut self, microseconds: u64, now: Instant) {
        self.turn(now);
        if let Some((_, newest)) = self.parts.back_mut() {
            newest.saturating_record(microseconds);
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(microseconds);
    }

    /// The quantiles, each none-a-number when nothing was recorded.
    fn quantiles(&mut self, now: Instant) -> Vec<f64> {
        self.turn(now);
        let mut all = self.parts.iter().map(|(_, part)| part);
        let Some(mut sum) = all.next().cloned() else { return vec![f64::NAN; QUANTILES.len()] };
        for part in all {
            // All parts have the same bounds, so that adding them can't fail.
            if let Err(error) = sum.add(part) {
                tracing::error!(%error, "a part of a summary is left out");
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "an hour has 3.6e9 microseconds")]
        let at = |quantile: f64| if sum.is_empty() { f64::NAN } else { sum.value_at_quantile(quantile) as f64 };
        QUANTILES.iter().map(|quantile| at(*quantile)).collect()
    }

    /// Begins a new part where the newest is over, and drops those that are older than the window.
    fn turn(&mut self, now: Instant) {
        let Some((began, newest)) = self.parts.back() else { return };
        if now.saturating_duration_since(*began) >= PART {
            let mut empty = newest.clone();
            empty.reset();
            self.parts.push_back((now, empty));
        }
        while self.parts.len() > PARTS
            || (self.parts.len() > 1
                && self.parts.front().is_some_and(|(began, _)| now.saturating_duration_since(*began) >= WINDOW))
        {
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_last_minute() {
        let start = Instant::now();
        let mut window = Window::new(start).unwrap();
        assert!(window.quantiles(start).iter().all(|value| value.is_nan()));
        for value in 1..=1000 {
            window.record(value, start);
        }
        let quantiles = window.quantiles(start);
        for (value, expected) in quantiles.iter().zip([500.0, 900.0, 950.0, 990.0, 999.0]) {
            assert!((value - expected).abs() <= expected / 100.0, "{quantiles:?}");
        }
        let later = start + Duration::from_secs(30);
        window.record(100_000, later);
        assert!(window.quantiles(later)[0] < 600.0, "the first part is still there");
        let last = start + Duration::from_secs(75);
        assert!((window.quantiles(last)[0] - 100_000.0).abs() < 1000.0, "{:?}", window.quantiles(last));
        assert!(window.quantiles(start + Duration::from_secs(200))[0].is_nan());
        assert_eq!((window.count, window.sum), (1001, 600_500));
        window.record(u64::MAX, start + Duration::from_secs(201));
        assert!(window.quantiles(start + Duration::from_secs(201))[0] >= 3.59e9);
    }
}
