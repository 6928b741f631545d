//! What a run showed: waits, GPU time, how far supply was from need, and what the policy did.

use super::arrivals::{Arrivals, count, index};
use super::fleet::Fleet;
use super::report::{Order, RunReport, Step, TimelinePoint};
use super::scenario::Scenario;

/// The step of a load is its largest rise of need within this time.
const STEP_SECONDS: usize = 30;
/// A point of the time line, in seconds.
const TIMELINE_SECONDS: usize = 5;

/// Collects while a run goes on.
pub(super) struct Meter {
    /// Every wait, in seconds.
    pub(super) waits: Vec<f32>,
    /// Requests that nobody took.
    pub(super) refused: u64,
    scenario: Scenario,
    rates: Vec<f64>,
    seconds: Vec<Second>,
    orders: Vec<Order>,
}

#[derive(Clone, Copy)]
struct Second {
    ordered: u32,
    ready: u32,
    need: u32,
}

impl Meter {
    pub(super) fn new(scenario: &Scenario, arrivals: &Arrivals) -> Self {
        let rates = (0..=index(arrivals.end)).map(|second| arrivals.rate.at(count(second))).collect();
        Self {
            waits: Vec::with_capacity(arrivals.moments.len()),
            refused: 0,
            scenario: scenario.clone(),
            rates,
            seconds: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// Notes the fleet once a second.
    pub(super) fn second(&mut self, now: f64, fleet: &Fleet<'_>) {
        let need = self.scenario.needed(self.rates.get(index(now)).copied().unwrap_or_default());
        let ready = crate::scaling::whole(fleet.ready.len());
        self.seconds.push(Second { ordered: fleet.ordered, ready, need });
    }

    /// Notes a change of the order.
    pub(super) fn ordered(&mut self, at: f64, before: u32, after: u32, why: &'static str) {
        self.orders.push(Order { at, before, after, why });
    }

    /// Sums up.
    pub(super) fn report(mut self, events: u64, gpu_seconds: f64) -> RunReport {
        let slo = self.scenario.slo_wait.as_secs_f64();
        let within = self.waits.iter().filter(|wait| f64::from(**wait) <= slo).count();
        let requests = count(self.waits.len()) + number(self.refused);
        let timeline = self.timeline();
        let step = self.step();
        let sum =
            |value: &dyn Fn(&Second) -> u32| self.seconds.iter().map(|second| f64::from(value(second))).sum::<f64>();
        let under = sum(&|second| second.need.saturating_sub(second.ready));
        let over = sum(&|second| second.ordered.saturating_sub(second.need));
        let gpu_hours = gpu_seconds / 3600.0;
        RunReport {
            requests,
            refused: number(self.refused),
            slo_share: if requests > 0.0 { count(within) / requests } else { 1.0 },
            wait_p50: quantile(&mut self.waits, 0.50),
            wait_p95: quantile(&mut self.waits, 0.95),
            wait_p99: quantile(&mut self.waits, 0.99),
            gpu_hours,
            cost: gpu_hours * self.scenario.price_per_gpu_hour,
            under_provision: under,
            over_provision: over,
            actions: count(self.orders.len()),
            reversals: count(self.reversals()),
            step,
            events: number(events),
            timeline,
            orders: self.orders,
        }
    }

    /// Increases soon after a decrease, and decreases soon after an increase: within two start-ups.
    fn reversals(&self) -> usize {
        let soon = 2.0 * self.scenario.startup_p90();
        let turns = |pair: &&[Order]| (pair[0].after > pair[0].before) != (pair[1].after > pair[1].before);
        self.orders.windows(2).filter(turns).filter(|pair| pair[1].at - pair[0].at <= soon).count()
    }

    /// How long the largest rise of need waited for the first order, and for nine tenths of what it needed.
    fn step(&self) -> Step {
        let need = |second: usize| self.seconds[second.min(self.seconds.len() - 1)].need;
        let rise = |second: usize| need(second + STEP_SECONDS).saturating_sub(need(second));
        let Some(before) = (0..self.seconds.len()).max_by_key(|second| (rise(*second), usize::MAX - second)) else {
            return Step::default();
        };
        if rise(before) == 0 {
            return Step::default();
        }
        let target = need(before + STEP_SECONDS);
        let began = (before..=before + STEP_SECONDS).find(|second| need(*second) > need(before)).unwrap_or(before);
        let enough = |second: usize, have: u32| (f64::from(have) >= 0.9 * f64::from(target)).then_some(second);
        let had = self.seconds[began].ordered >= target;
        let order = self.orders.iter().find(|order| order.at >= count(began) && order.after > order.before);
        let decided = if had { Some(0.0) } else { order.map(|order| order.at - count(began)) };
        let capacity = (began..self.seconds.len()).find_map(|second| enough(second, self.seconds[second].ready));
        Step { first_decision: decided, ninety_percent: capacity.map(|second| count(second - began)) }
    }

    fn timeline(&self) -> Vec<TimelinePoint> {
        let point = |(second, of): (usize, &Second)| TimelinePoint {
            at: count(second),
            rate: self.rates.get(second).copied().unwrap_or_default(),
            need: of.need,
            ordered: of.ordered,
            ready: of.ready,
        };
        self.seconds.iter().enumerate().step_by(TIMELINE_SECONDS).map(point).collect()
    }
}

/// The value that this part of all values does not exceed; 0 without values.
fn quantile(values: &mut [f32], part: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = index((part * count(values.len())).ceil()).clamp(1, values.len()) - 1;
    f64::from(*values.select_nth_unstable_by(rank, f32::total_cmp).1)
}

fn number(whole: u64) -> f64 {
    count(usize::try_from(whole).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::arrivals::Rate;
    use super::super::testing::scenario;
    use super::*;

    fn meter(need: &[u32]) -> Meter {
        let rate = Rate { bin_seconds: 1.0, per_second: vec![1.0; need.len()] };
        let arrivals = Arrivals { moments: Vec::new(), rate, end: count(need.len()), cut: false };
        Meter::new(&scenario(), &arrivals)
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut values: Vec<f32> = (1..=100_u8).map(f32::from).rev().collect();
        for (part, expected) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0)] {
            assert!((quantile(&mut values, part) - expected).abs() < 1e-9, "{part}");
        }
        assert_eq!(quantile(&mut [], 0.5).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn only_a_quick_turn_is_a_reversal() {
        let mut meter = meter(&[1]);
        for (at, before, after) in [(0.0, 1, 3), (10.0, 3, 2), (20.0, 2, 1), (200.0, 1, 2), (210.0, 2, 4)] {
            meter.ordered(at, before, after, "");
        }
        assert_eq!(meter.reversals(), 1);
    }

    #[test]
    fn the_step_is_timed_from_its_first_second() {
        let mut meter = meter(&[]);
        for second in 0..100_u32 {
            let (ordered, ready) = (if second < 43 { 1 } else { 6 }, if second < 70 { 1 } else { 6 });
            meter.seconds.push(Second { ordered, ready, need: if second < 40 { 1 } else { 6 } });
        }
        meter.ordered(42.5, 1, 6, "");
        let step = meter.step();
        assert_eq!((step.first_decision, step.ninety_percent), (Some(2.5), Some(30.0)));
    }
}
