//! In which order requests are served, and how large ones are divided: pure, with time as an argument.
//!
//! One rule: whoever came first is first. Two things move the moment at which somebody counts as having come:
//!
//! - *Priority*: a request of priority p counts as having come (p - 1) × [`AGEING`] later than it did. So it lets those of a
//!   higher priority pass for that long and no longer, and nobody starves.
//! - *Fairness*: a request is served for one turn of `quantum` rows; if it has more, it counts as having come again just then.
//!   So a huge request lets everybody pass who came before its next turn, and still gets every row that nobody else wants.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

/// How long a request lets those of the next higher priority pass.
pub const AGEING: Duration = Duration::from_millis(500);

/// Requests in the order in which they are served.
#[derive(Debug)]
pub struct Order<T> {
    quantum: usize,
    rows: usize,
    arrivals: u64,
    entries: BTreeMap<Key, Entry<T>>,
}

/// When somebody counts as having come; of two at the same time, who was in line first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    counts_from: Instant,
    arrival: u64,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    level: u32,
    rows: Range<usize>,
    /// What is left of its turn.
    turn: usize,
}

/// Some rows of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion<T> {
    /// The request.
    pub item: T,
    /// The first of its rows.
    pub first: usize,
    /// How many.
    pub rows: usize,
}

/// Who waits, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival<T> {
    /// The request.
    pub item: T,
    /// Its priority less one.
    pub level: u32,
    /// When it came.
    pub came: Instant,
    /// Which of its rows.
    pub rows: Range<usize>,
}

impl<T: Clone> Order<T> {
    /// Nobody yet; a turn is `quantum` rows.
    pub fn new(quantum: usize) -> Self {
        Self { quantum: quantum.max(1), rows: 0, arrivals: 0, entries: BTreeMap::new() }
    }

    /// Adds a request.
    pub fn push(&mut self, arrival: Arrival<T>) {
        let Arrival { item, level, came, rows } = arrival;
        self.rows += rows.len();
        self.line_up(Entry { item, level, rows, turn: self.quantum }, came);
    }

    fn line_up(&mut self, entry: Entry<T>, came: Instant) {
        self.arrivals += 1;
        self.entries.insert(Key { counts_from: counts_from(came, entry.level), arrival: self.arrivals }, entry);
    }

    /// Who is next, and how many rows its turn has at least.
    pub fn peek(&self) -> Option<(&T, usize)> {
        self.entries.first_key_value().map(|(_, entry)| (&entry.item, entry.rows.len().min(entry.turn)))
    }

    /// Takes at most `room` rows of whoever is next. One that is alone has all the turns.
    pub fn take(&mut self, room: usize, now: Instant) -> Option<Portion<T>> {
        let is_alone = self.entries.len() == 1;
        let mut next = self.entries.first_entry()?;
        let entry = next.get_mut();
        let allowed = if is_alone { room } else { room.min(entry.turn) };
        let rows = entry.rows.len().min(allowed);
        let first = entry.rows.start;
        self.rows -= rows;
        entry.rows.start += rows;
        entry.turn = entry.turn.saturating_sub(rows);
        if entry.rows.is_empty() {
            return Some(Portion { item: next.remove().item, first, rows });
        }
        let item = entry.item.clone();
        if entry.turn == 0 {
            let entry = Entry { turn: self.quantum, ..next.remove() };
            self.line_up(entry, now);
        }
        Some(Portion { item, first, rows })
    }

    /// The rows that are served before those of a request that comes now, by what is known now.
    pub fn ahead(&self, level: u32, now: Instant) -> usize {
        let last = Key { counts_from: counts_from(now, level), arrival: u64::MAX };
        self.entries.range(..last).map(|(_, entry)| entry.rows.len().min(entry.turn)).sum()
    }

    /// Forgets those that don't fulfil the condition.
    pub fn retain(&mut self, mut keeps: impl FnMut(&T) -> bool) {
        self.entries.retain(|_, entry| keeps(&entry.item));
        self.rows = self.entries.values().map(|entry| entry.rows.len()).sum();
    }

    /// All rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn counts_from(came: Instant, level: u32) -> Instant {
    came + AGEING * level
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn arrival(request: u64, level: u32, came: Instant, rows: usize) -> Arrival<u64> {
        Arrival { item: request, level, came, rows: 0..rows }
    }

    fn drain(order: &mut Order<u64>, room: usize, now: Instant) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| order.take(room, now)).map(|portion| (portion.item, portion.rows)).collect()
    }

    #[test]
    fn first_come_first_served() {
        let start = Instant::now();
        let mut order = Order::new(8);
        for request in 0..3 {
            order.push(arrival(request, 0, start + MS * u32::try_from(request).unwrap(), 2));
        }
        assert_eq!(order.ahead(0, start + MS), 4);
        assert_eq!(drain(&mut order, 8, start + 9 * MS), [(0, 2), (1, 2), (2, 2)]);
    }

    #[test]
    fn a_huge_request_lets_others_pass_after_each_turn_and_is_never_held_up_by_nobody() {
        let start = Instant::now();
        let mut order = Order::new(4);
        order.push(arrival(0, 0, start, 20));
        order.push(arrival(1, 0, start + MS, 1));
        order.push(arrival(2, 0, start + 2 * MS, 6));
        let now = start + 9 * MS;
        assert_eq!(drain(&mut order, 8, now), [(0, 4), (1, 1), (2, 4), (0, 4), (2, 2), (0, 8), (0, 4)]);
    }

    #[test]
    fn a_turn_goes_on_in_the_next_batch() {
        let start = Instant::now();
        let mut order = Order::new(4);
        order.push(arrival(0, 0, start, 6));
        order.push(arrival(1, 0, start, 1));
        assert_eq!(order.take(1, start).unwrap(), Portion { item: 0, first: 0, rows: 1 });
        assert_eq!(order.take(8, start).unwrap(), Portion { item: 0, first: 1, rows: 3 });
        assert_eq!(order.take(8, start).unwrap(), Portion { item: 1, first: 0, rows: 1 });
    }

    #[test]
    fn a_priority_is_a_head_start_and_no_more() {
        let start = Instant::now();
        for (later, expected) in [(MS, [1, 0]), (AGEING + MS, [0, 1])] {
            let mut order = Order::new(8);
            order.push(arrival(0, 1, start, 1));
            order.push(arrival(1, 0, start + later, 1));
            let served: Vec<u64> = drain(&mut order, 8, start + later).iter().map(|(request, _)| *request).collect();
            assert_eq!(served, expected, "{later:?} later");
        }
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let start = Instant::now();
        let mut order = Order::new(8);
        order.push(arrival(0, 0, start, 1));
        order.push(arrival(1, 0, start, 1));
        order.retain(|request| *request != 0);
        assert_eq!(drain(&mut order, 8, start), [(1, 1)]);
        assert!(order.is_empty());
    }

    proptest! {
        /// Every row is served once and in its request's order, and a single image waits for one turn of each request that
        /// counts as having come before it, and for nothing else.
        #[test]
        fn every_row_once_and_nobody_starves(
            requests in prop::collection::vec((0_u32..300, 0_u32..3, 1_usize..40), 1..30),
            quantum in 1_usize..10,
            rooms in prop::collection::vec(1_usize..12, 1..6),
        ) {
            let start = Instant::now();
            let mut order = Order::new(quantum);
            for (request, (came, level, rows)) in requests.iter().enumerate() {
                order.push(arrival(request as u64, *level, start + MS * *came, *rows));
            }
            let mut now = start + 300 * MS;
            let ahead = order.ahead(0, now);
            let single = requests.len() as u64;
            order.push(arrival(single, 0, now, 1));
            let mut next: HashMap<u64, usize> = HashMap::new();
            let (mut before, mut found) = (0, false);
            for room in rooms.iter().cycle() {
                now += MS / 1000;
                let Some(portion) = order.take(*room, now) else { break };
                prop_assert!(portion.rows >= 1 && portion.rows <= *room);
                let expected = next.entry(portion.item).or_default();
                prop_assert_eq!(portion.first, *expected);
                *expected += portion.rows;
                found |= portion.item == single;
                before += if found { 0 } else { portion.rows };
            }
            for (request, (_, _, rows)) in requests.iter().enumerate() {
                prop_assert_eq!(next[&(request as u64)], *rows);
            }
            prop_assert!(found);
            prop_assert_eq!(before, ahead);
        }
    }
}
