//! What would change a decision: asked of the law's own arithmetic, with the numbers that it decided with.

use std::time::Duration;

use super::base::Basis;
use super::decision::Decision;
use super::fresh::moderate_wait;
use super::policy::Policy;
use super::state::PRESSED_ROUNDS;

/// More arrives nowhere: rates from here on are no thresholds.
const MOST_RATE: f64 = 1e9;
/// Halvings of the range in which a threshold lies: exact to the last digit that is ever shown.
const HALVINGS: u32 = 60;

/// What would make more replicas, and fewer, as long as everything else stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Changes {
    /// What would make more; none at the user's maximum.
    pub more: Option<More>,
    /// What would make fewer; none at the user's minimum.
    pub fewer: Option<Fewer>,
}

/// What orders another replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct More {
    /// How many there would be.
    pub replicas: u32,
    /// Images per second above which it is ordered. None where no rate does: while nothing waits, what the replicas
    /// take is a capacity that they have; or while the capacity is not known.
    pub arrivals_above: Option<f64>,
    /// At most replicas, requests wait for longer than this on average, ...
    pub queue_time_above: Duration,
    /// ... with more images waiting at each than this, ...
    pub pending_above: u32,
    /// ... in so many rounds of measurements in a row.
    pub rounds: u32,
}

/// What removes a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fewer {
    /// How many there would be.
    pub replicas: u32,
    /// Images per second at or below which it is not needed. None where no rate is low enough, or none is known.
    pub arrivals_below: Option<f64>,
    /// For how long they must stay there.
    pub lasting: Duration,
    /// The soonest that it may happen, if they are there at once.
    pub soonest: Duration,
}

impl Decision {
    /// What would change the number that was decided.
    pub fn changes(&self, policy: &Policy) -> Changes {
        let (inputs, settings) = (&self.inputs, policy.settings());
        let basis = inputs.terms.basis.map(|basis| Basis { current: self.replicas, ..basis });
        Changes {
            more: (self.replicas < settings.max_replicas).then(|| More {
                replicas: self.replicas + 1,
                arrivals_above: basis.and_then(more_above),
                queue_time_above: moderate_wait(inputs.target_queue_time),
                pending_above: settings.max_batch_size,
                rounds: PRESSED_ROUNDS,
            }),
            fewer: (self.replicas > settings.min_replicas).then(|| Fewer {
                replicas: self.replicas - 1,
                arrivals_below: basis.and_then(fewer_below),
                lasting: inputs.remembered,
                soonest: inputs.terms.fewer_in.unwrap_or(inputs.remembered),
            }),
        }
    }
}

/// The rate above which more are needed than there are, with the trend and the queue as they are.
fn more_above(basis: Basis) -> Option<f64> {
    basis.learnt?;
    boundary(|level| Basis { level, ..basis }.wish().now <= basis.current)
}

/// The rate up to which one fewer would do, with no trend, no queue, and every replica measured.
fn fewer_below(basis: Basis) -> Option<f64> {
    basis.learnt?;
    let steady = Basis { rise: 0.0, backlog: 0.0, missing: 0, ..basis };
    boundary(|level| Basis { level, ..steady }.wish().later < basis.current)
}

/// The highest rate at which something still holds that holds at low rates and not at high ones.
fn boundary(holds_at: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (0.0, 1.0);
    if !holds_at(low) {
        return None;
    }
    while holds_at(high) {
        (low, high) = (high, high * 2.0);
        if high > MOST_RATE {
            return None;
        }
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if holds_at(middle) { low = middle } else { high = middle }
    }
    Some(low)
}
