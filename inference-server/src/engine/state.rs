//! Everything that waits, under one lock: the board of requests, their order, the batch that is being filled.
//!
//! A request is on the board from its admission until all of its rows are executing, or until it is given up. What is not on
//! the board is not wanted: its files are not decoded, and its rows not executed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    forecast::{Ahead, Forecast},
    forming::{Batch, Forming, Memory, Writing},
    layout::{Item, Layout},
    order::{Arrival, Order, Portion},
    ticket::{Content, Ticket},
};

/// What waits, and what runs.
#[derive(Debug)]
pub(super) struct State {
    layout: Arc<Layout>,
    is_eager: bool,
    board: BTreeMap<(Instant, u64), Waiting>,
    next_id: u64,
    rows: usize,
    unstarted: usize,
    ready: Order<Item>,
    files: Order<Arc<Ticket>>,
    decoded: usize,
    forming: Option<Forming>,
    memories: Vec<Memory>,
    rows_of_images: Vec<BytesMut>,
    running: Vec<Option<Running>>,
    /// What was measured.
    pub(super) forecast: Forecast,
}

#[derive(Debug)]
struct Waiting {
    ticket: Arc<Ticket>,
    /// Rows that no execution has begun with.
    rows: usize,
    has_started: bool,
}

/// One execution.
#[derive(Debug)]
struct Running {
    since: Instant,
    rows: usize,
    members: Vec<Member>,
}

/// Who gets which rows of an execution.
#[derive(Debug)]
pub(super) struct Member {
    /// The request.
    pub(super) ticket: Arc<Ticket>,
    /// The first of its rows.
    pub(super) first: usize,
    /// How many.
    pub(super) rows: usize,
    /// Where they are in the execution.
    pub(super) at: usize,
    /// How long they waited for the device after they were able to run.
    pub(super) queue: Duration,
}

/// A batch for a device.
#[derive(Debug)]
pub(super) struct Start {
    /// The inputs.
    pub(super) batch: Batch,
    /// The queue signal of each request that starts with it.
    pub(super) waits: Vec<Duration>,
}

/// An image to decode.
#[derive(Debug)]
pub(super) struct File {
    /// Its request.
    pub(super) ticket: Arc<Ticket>,
    /// Its place in it.
    pub(super) place: usize,
    /// The memory of an earlier one, if there is some.
    pub(super) memory: Option<BytesMut>,
}

/// What became of a portion.
#[derive(Debug)]
pub(super) enum Reserved {
    /// It is to be copied.
    Writing(Writing),
    /// It is a batch as it is.
    Lent,
}

/// What the gauges show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Requests of which nothing has started.
    pub(super) requests: usize,
    /// Rows that have not started.
    pub(super) rows: usize,
    /// The age of the oldest of the requests, by the queue signal's clock.
    pub(super) oldest: Duration,
}

impl State {
    /// Nothing waits. `is_eager`: there is no batching delay. A turn of a large request is a quarter of a batch.
    pub(super) fn new(layout: Arc<Layout>, is_eager: bool, devices: usize, decoders: usize) -> Self {
        let quantum = layout.max_rows.div_ceil(4);
        Self {
            is_eager,
            board: BTreeMap::new(),
            next_id: 0,
            rows: 0,
            unstarted: 0,
            ready: Order::new(quantum),
            files: Order::new(quantum),
            decoded: 0,
            forming: None,
            memories: Vec::new(),
            rows_of_images: Vec::new(),
            running: (0..devices).map(|_| None).collect(),
            forecast: Forecast::new(layout.max_rows, devices, decoders),
            layout,
        }
    }

    /// The next request's number.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Puts a request on the board and into its queue.
    pub(super) fn admit(&mut self, ticket: &Arc<Ticket>, now: Instant) {
        self.rows += ticket.rows;
        self.unstarted += 1;
        let waiting = Waiting { ticket: Arc::clone(ticket), rows: ticket.rows, has_started: false };
        self.board.insert(ticket.key(), waiting);
        let (level, rows) = (ticket.level, 0..ticket.rows);
        match &ticket.content {
            Content::Images(_) => {
                self.files.push(Arrival { item: Arc::clone(ticket), level, came: now, rows });
            }
            Content::Tensors(_) | Content::Blank => {
                let item = Item { ticket: Arc::clone(ticket), pixels: None, ready: now };
                self.ready.push(Arrival { item, level, came: now, rows });
            }
        }
    }

    /// The number of requests, and of their rows, that have not started altogether.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.board.len(), self.rows)
    }

    /// The time at which the next request must be given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.board.first_key_value().map(|(key, _)| key.0)
    }

    /// How long a request waits for which everything that waits now is ahead: no request waits longer.
    pub(super) fn longest_wait(&self, now: Instant) -> Duration {
        self.forecast.wait(Ahead { rows: self.rows, images: self.files.rows(), busy: self.busy(now) })
    }

    /// The time until a device is idle.
    fn busy(&self, now: Instant) -> Duration {
        let remaining = |running: &Option<Running>| {
            let Some(running) = running else { return Duration::ZERO };
            let took = self.forecast.execution(running.rows).unwrap_or_default();
            took.saturating_sub(now.saturating_duration_since(running.since))
        };
        self.running.iter().map(remaining).min().unwrap_or_default()
    }

    /// How long a request waits that comes now.
    pub(super) fn wait(&self, level: u32, has_images: bool, now: Instant) -> Duration {
        let files = self.files.ahead(level, now);
        let rows = self.ready.ahead(level, now) + self.forming.as_ref().map_or(0, Forming::rows);
        // Images that are decoded before it are executed before it too.
        let (rows, images) = if has_images { (rows + files, files) } else { (rows, 0) };
        self.forecast.wait(Ahead { rows, images, busy: self.busy(now) })
    }

    /// Takes an image to decode.
    pub(super) fn next_file(&mut self, now: Instant) -> Option<File> {
        let Portion { item, first, .. } = self.files.take(1, now)?;
        Some(File { ticket: item, place: first, memory: self.rows_of_images.pop() })
    }

    /// Images to decode, and those that are decoded and have no place in a batch yet.
    pub(super) fn images(&self) -> (usize, usize) {
        (self.files.rows(), self.decoded)
    }

    /// Adds a decoded image, unless nobody waits for it any more.
    pub(super) fn add_pixels(&mut self, ticket: &Arc<Ticket>, place: usize, pixels: Bytes, now: Instant) {
        if self.board.contains_key(&ticket.key()) {
            self.decoded += 1;
            let item = Item { ticket: Arc::clone(ticket), pixels: Some(pixels), ready: now };
            let rows = place..place + 1;
            self.ready.push(Arrival { item, level: ticket.level, came: now, rows });
        }
    }

    /// Gives the next portion a place in the batch, if there is one. `is_idle`: a device would run it at once.
    pub(super) fn reserve(&mut self, is_idle: bool, now: Instant) -> Option<Reserved> {
        let (item, _) = self.ready.peek()?;
        let room = match &mut self.forming {
            Some(forming) if forming.accepts(&self.layout, item) => forming.room(),
            Some(forming) => {
                forming.close();
                return None;
            }
            None => self.layout.capacity(item),
        };
        if room == 0 {
            return None;
        }
        let portion = self.ready.take(room, now)?;
        self.decoded -= usize::from(portion.item.pixels.is_some());
        if self.forming.is_none() {
            let is_complete = portion.rows == room || (is_idle && self.is_eager && self.ready.is_empty());
            if is_complete && let Some(lent) = Forming::lent(&self.layout, &portion) {
                self.forming = Some(lent);
                return Some(Reserved::Lent);
            }
        }
        let (layout, memories) = (&self.layout, &mut self.memories);
        let forming = self.forming.get_or_insert_with(|| Forming::new(layout, &portion.item, memories.pop()));
        Some(Reserved::Writing(forming.reserve(portion)))
    }

    /// The rows that wait to be copied and have room in the batch.
    pub(super) fn copies(&self) -> usize {
        let room = self.forming.as_ref().map_or(self.layout.max_rows, Forming::room);
        self.ready.rows().min(room)
    }

    /// Takes a written part of the batch back. The batch stays until all of its parts are back, so it is the right one.
    pub(super) fn commit(&mut self, writing: Writing) {
        if let Some(forming) = &mut self.forming {
            // No more than were decoded and not copied at one time: twice the decoding threads.
            self.rows_of_images.extend(forming.commit(writing));
        }
    }

    /// The batch that is being filled.
    pub(super) fn forming(&mut self) -> Option<&mut Forming> {
        self.forming.as_mut()
    }

    /// Hands the batch to a device, without those that nobody waits for; none if that is all of it.
    pub(super) fn start(&mut self, instance: usize, now: Instant) -> Option<Start> {
        let forming = self.forming.take()?;
        let (mut wanted, mut members, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for Portion { item, first, rows } in forming.portions() {
            let key = item.ticket.key();
            let waiting = self.board.get_mut(&key);
            wanted.push(waiting.is_some());
            let Some(waiting) = waiting else { continue };
            if !waiting.has_started {
                waiting.has_started = true;
                self.unstarted -= 1;
                let held = forming.held_since.map(|since| now.saturating_duration_since(since.max(item.ready)));
                waits.push(item.ticket.waited(now).saturating_sub(held.unwrap_or_default()));
            }
            waiting.rows -= rows;
            self.rows -= rows;
            if waiting.rows == 0 {
                self.board.remove(&key);
            }
            let queue = now.saturating_duration_since(item.ready);
            members.push(Member { ticket: Arc::clone(&item.ticket), first: *first, rows: *rows, at, queue });
            at += rows;
        }
        let batch = forming.finish(&self.layout, &wanted);
        if members.is_empty() {
            self.memories.extend(batch.into_memory());
            return None;
        }
        if let Some(running) = self.running.get_mut(instance) {
            *running = Some(Running { since: now, rows: batch.rows, members });
        }
        Some(Start { batch, waits })
    }

    /// Hands a request that nobody waits beside to a device, as a batch of its own: what the board, the queue and the batch that is
    /// filled would come to, without them. None where that is not so, or where more than `copied` bytes would have to be copied.
    pub(super) fn start_alone(
        &mut self,
        ticket: &Arc<Ticket>,
        instance: usize,
        now: Instant,
        copied: usize,
    ) -> Option<Start> {
        let is_alone = self.board.is_empty() && self.ready.is_empty() && self.forming.is_none();
        if !is_alone || !self.is_eager || matches!(ticket.content, Content::Images(_)) {
            return None;
        }
        let item = Item { ticket: Arc::clone(ticket), pixels: None, ready: now };
        if ticket.rows > self.layout.capacity(&item) {
            return None;
        }
        let portion = Portion { item, first: 0, rows: ticket.rows };
        let forming = if let Some(lent) = Forming::lent(&self.layout, &portion) {
            lent
        } else {
            if self.layout.all_row_bytes(&portion.item) * portion.rows > copied {
                return None;
            }
            let mut forming = Forming::new(&self.layout, &portion.item, self.memories.pop());
            let mut writing = forming.reserve(portion);
            writing.write();
            forming.commit(writing);
            forming
        };
        let batch = forming.finish(&self.layout, &[true]);
        let member = Member { ticket: Arc::clone(ticket), first: 0, rows: ticket.rows, at: 0, queue: Duration::ZERO };
        if let Some(running) = self.running.get_mut(instance) {
            *running = Some(Running { since: now, rows: batch.rows, members: vec![member] });
        }
        Some(Start { batch, waits: vec![ticket.waited(now)] })
    }

    /// An execution has ended: whom to answer, unless they were told before that it takes too long.
    pub(super) fn end(&mut self, instance: usize, memory: Option<Memory>) -> Vec<Member> {
        self.memories.extend(memory);
        self.running.get_mut(instance).and_then(Option::take).map(|running| running.members).unwrap_or_default()
    }

    /// The members of executions that have taken longer than `limit`. They are no members any more.
    pub(super) fn give_up_hung(&mut self, limit: Duration, now: Instant) -> Vec<Member> {
        let hung = |running: &&mut Running| now.saturating_duration_since(running.since) >= limit;
        self.running.iter_mut().flatten().filter(hung).flat_map(|running| running.members.drain(..)).collect()
    }

    /// Whether an execution has taken longer than `limit`.
    pub(super) fn hangs(&self, limit: Duration, now: Instant) -> bool {
        self.running.iter().flatten().any(|running| now.saturating_duration_since(running.since) >= limit)
    }

    /// Takes a request off the board and out of the queues; false when it was not there.
    pub(super) fn leave(&mut self, ticket: &Ticket) -> bool {
        let Some(waiting) = self.board.remove(&ticket.key()) else { return false };
        self.forget(&waiting);
        self.sweep(|other| other.id != ticket.id);
        true
    }

    /// Takes everybody off the board whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Arc<Ticket>> {
        let mut expired = Vec::new();
        while let Some(first) = self.board.first_entry()
            && first.key().0 <= now
        {
            let waiting = first.remove();
            self.forget(&waiting);
            expired.push(waiting.ticket);
        }
        if !expired.is_empty() {
            self.sweep(|ticket| ticket.deadline > now);
        }
        expired
    }

    /// Takes everybody off the board.
    pub(super) fn give_up_all(&mut self) -> Vec<Arc<Ticket>> {
        let all = std::mem::take(&mut self.board);
        let tickets = all.into_values().map(|waiting| {
            self.forget(&waiting);
            waiting.ticket
        });
        let tickets = tickets.collect();
        self.sweep(|_| false);
        tickets
    }

    fn forget(&mut self, waiting: &Waiting) {
        self.rows -= waiting.rows;
        self.unstarted -= usize::from(!waiting.has_started);
    }

    fn sweep(&mut self, keeps: impl Fn(&Ticket) -> bool) {
        let mut gone = 0;
        self.ready.retain(|item| {
            let is_kept = keeps(&item.ticket);
            gone += usize::from(!is_kept && item.pixels.is_some());
            is_kept
        });
        self.decoded -= gone;
        self.files.retain(|ticket| keeps(ticket));
    }

    /// What the gauges show now.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let waiting = self.board.values().filter(|waiting| !waiting.has_started);
        let oldest = waiting.map(|waiting| waiting.ticket.waited(now)).max().unwrap_or_default();
        Snapshot { requests: self.unstarted, rows: self.rows, oldest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Signature, TensorSpec},
        tensor::{Data, DataType, Tensor},
    };

    fn state(buckets: &[usize], is_eager: bool) -> State {
        let spec = TensorSpec { name: "x".to_owned(), data_type: DataType::Fp32, dims: vec![None, Some(2)] };
        let signature = Arc::new(Signature { inputs: vec![spec], outputs: vec![], platform: "test" });
        let layout =
            Layout { signature, is_batched: true, blank: vec![vec![1, 2]], max_rows: 4, buckets: buckets.to_vec() };
        State::new(Arc::new(layout), is_eager, 1, 1)
    }

    /// Rows of two numbers, which begin so many bytes into an aligned piece of memory.
    fn ticket(rows: usize, off: usize, now: Instant) -> Arc<Ticket> {
        let mut memory = crate::device::aligned(off + rows * 8);
        for (place, byte) in memory.iter_mut().skip(off).enumerate() {
            *byte = u8::try_from(place).unwrap();
        }
        let data = Data::Fixed(memory.freeze().slice(off..));
        let tensor = Tensor { data_type: DataType::Fp32, shape: vec![rows, 2], data };
        let arrived = now.checked_sub(Duration::from_millis(1)).unwrap();
        let deadline = now + Duration::from_secs(1);
        Arc::new(Ticket::new(1, [arrived, deadline], 0, (Content::Tensors(vec![tensor]), rows), 1))
    }

    /// What can be told of a start, and of the state behind it.
    fn told(start: &Start, state: &State) -> String {
        let inputs: Vec<_> = start.batch.inputs.iter().map(|input| (&input.shape, input.bytes())).collect();
        let running: Vec<_> = state.running.iter().flatten().flat_map(|running| &running.members).collect();
        let members: Vec<_> = running
            .iter()
            .map(|member| (member.ticket.id, member.first, member.rows, member.at, member.queue))
            .collect();
        format!("{inputs:?} {} {:?} {members:?} {:?} {}", start.batch.rows, start.waits, state.load(), state.unstarted)
    }

    #[test]
    fn alone_it_is_as_by_the_queue() {
        let now = Instant::now();
        for (buckets, rows, off) in
            [(&[][..], 1, 0), (&[], 3, 0), (&[], 4, 1), (&[], 2, 3), (&[2, 4], 3, 0), (&[2, 4], 2, 0), (&[4], 1, 1)]
        {
            let (mut alone, mut queued) = (state(buckets, true), state(buckets, true));
            // Twice, the second time in the memory of the first.
            for _ in 0..2 {
                let request = ticket(rows, off, now);
                let at_once = alone.start_alone(&request, 0, now, 1000).unwrap();
                queued.admit(&request, now);
                if let Some(Reserved::Writing(mut writing)) = queued.reserve(true, now) {
                    writing.write();
                    queued.commit(writing);
                }
                let by_queue = queued.start(0, now).unwrap();
                assert_eq!(
                    told(&at_once, &alone),
                    told(&by_queue, &queued),
                    "{buckets:?}, {rows} rows, {off} bytes off"
                );
                for (state, start) in [(&mut alone, at_once), (&mut queued, by_queue)] {
                    assert_eq!(state.end(0, start.batch.into_memory()).len(), 1);
                }
            }
        }
    }

    #[test]
    fn whoever_is_not_alone_or_may_not_be_takes_the_queue() {
        let now = Instant::now();
        let request = ticket(2, 1, now);
        assert!(state(&[], true).start_alone(&request, 0, now, 16).is_some(), "the others differ from it");
        assert!(state(&[], true).start_alone(&request, 0, now, 15).is_none(), "too much to copy");
        assert!(state(&[], false).start_alone(&request, 0, now, 16).is_none(), "a device waits for more");
        assert!(state(&[], true).start_alone(&ticket(5, 0, now), 0, now, 1000).is_none(), "more than a batch");
        let mut busy = state(&[], true);
        busy.admit(&request, now);
        assert!(busy.start_alone(&request, 0, now, 16).is_none(), "another waits");
    }
}
