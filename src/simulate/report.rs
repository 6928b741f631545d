//! The figures of a run, and their means and intervals over seeds.

/// One run's figures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunReport {
    /// Requests that came.
    pub requests: f64,
    /// Requests that were refused because a queue was full.
    pub refused: f64,
    /// Part of the requests that waited no longer than the objective; refused ones did.
    pub slo_share: f64,
    /// Half of the requests waited no longer, in seconds.
    pub wait_p50: f64,
    /// 95 of a hundred requests waited no longer, in seconds.
    pub wait_p95: f64,
    /// 99 of a hundred requests waited no longer, in seconds.
    pub wait_p99: f64,
    /// Hours of GPUs, those of starting and ending replicas included.
    pub gpu_hours: f64,
    /// What they cost.
    pub cost: f64,
    /// Replicas missing times seconds.
    pub under_provision: f64,
    /// Replicas too many times seconds.
    pub over_provision: f64,
    /// How often another number was ordered.
    pub actions: f64,
    /// How often the direction changed within two start-ups.
    pub reversals: f64,
    /// How the largest rise was answered.
    pub step: Step,
    /// Events that the run took.
    pub events: f64,
    /// The run over time.
    pub timeline: Vec<TimelinePoint>,
    /// Every change of the ordered number.
    pub orders: Vec<Order>,
}

/// A change of the ordered number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// Seconds from the start.
    pub at: f64,
    /// How many were ordered before.
    pub before: u32,
    /// How many are ordered now.
    pub after: u32,
    /// Why, where the policy says so.
    pub why: &'static str,
}

/// How the largest rise of need was answered, in seconds after it began.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// Until the first order of more; none without a rise or an order.
    pub first_decision: Option<f64>,
    /// Until nine tenths of the needed replicas were ready; none where they never were.
    pub ninety_percent: Option<f64>,
}

/// A moment of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimelinePoint {
    /// Seconds from the start.
    pub at: f64,
    /// Requests per second.
    pub rate: f64,
    /// Replicas that the rate needs.
    pub need: u32,
    /// Replicas that were ordered.
    pub ordered: u32,
    /// Replicas that answered.
    pub ready: u32,
}

/// A mean and half the width of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval; 0 with a single run.
    pub half_width: f64,
}

impl Estimate {
    /// Of these values, by Student's t.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let count = super::arrivals::count(values.len());
        if values.is_empty() {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / count;
        if values.len() < 2 {
            return Self { mean, half_width: 0.0 };
        }
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { mean, half_width: student_t(values.len() - 1) * (variance / count).sqrt() }
    }

    /// Of one figure of all runs.
    pub fn over(runs: &[RunReport], figure: impl Fn(&RunReport) -> f64) -> Self {
        Self::of(runs.iter().map(figure))
    }
}

/// The 97.5 % quantile of Student's t with these degrees of freedom.
fn student_t(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    TABLE.get(degrees.saturating_sub(1)).copied().unwrap_or(1.96)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_students() {
        let estimate = Estimate::of([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((estimate.mean - 3.0).abs() < 1e-12);
        // Deviation 1.5811, over the root of 5, times 2.776.
        assert!((estimate.half_width - 1.963).abs() < 0.001, "{estimate:?}");
        assert_eq!(Estimate::of([7.0]), Estimate { mean: 7.0, half_width: 0.0 });
        assert_eq!(Estimate::of([]), Estimate::default());
    }
}
