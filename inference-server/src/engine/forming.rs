//! The batch that is being filled: its memory, who has which rows of it, and how it becomes what a device reads.
//!
//! The memory of an input is one piece. Each portion gets a part of its own of it, fills that on its own thread without a lock,
//! and gives it back; put together again, the parts are the input. So a tensor is copied once, from the request's body to where
//! the device reads it, and by several threads at the same time; and not at all when one request is the whole batch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    batch::bucket,
    layout::{Item, Layout, Piece},
    order::Portion,
};
use crate::{
    device::{BatchInput, Values, aligned},
    tensor::DataType,
};

/// A batch between its first portion and its execution.
#[derive(Debug)]
pub(super) struct Forming {
    columns: Vec<Column>,
    slots: Vec<Slot>,
    rows: usize,
    capacity: usize,
    writers: usize,
    is_closed: bool,
    is_lent: bool,
    oldest: Instant,
    /// Since when a device stood idle only because of the batching delay.
    pub(super) held_since: Option<Instant>,
}

#[derive(Debug)]
struct Column {
    data_type: DataType,
    shape: Vec<usize>,
    row_bytes: usize,
    free: BytesMut,
}

#[derive(Debug)]
struct Slot {
    portion: Portion<Item>,
    pieces: Vec<Piece>,
}

/// A portion's part of a batch, in the hands of the thread that fills it.
#[derive(Debug)]
pub(super) struct Writing {
    place: usize,
    portion: Portion<Item>,
    pieces: Vec<Piece>,
}

/// Memory between two batches, one piece for each input.
pub(super) type Memory = Vec<BytesMut>;

/// What a device gets.
#[derive(Debug)]
pub(super) struct Batch {
    /// One for each of the model's inputs.
    pub(super) inputs: Vec<BatchInput>,
    /// The rows that somebody waits for; the inputs may have more.
    pub(super) rows: usize,
    rest: Memory,
}

impl Forming {
    /// An empty batch for rows like this item's.
    pub(super) fn new(layout: &Layout, item: &Item, memory: Option<Memory>) -> Self {
        let capacity = layout.capacity(item);
        let mut memory = memory.unwrap_or_default().into_iter();
        let columns = layout
            .signature
            .inputs
            .iter()
            .enumerate()
            .map(|(input, spec)| {
                let row_bytes = layout.row_bytes(item, input);
                let needed = bucket(&layout.buckets, capacity) * row_bytes;
                let free = memory.next().filter(|memory| memory.len() >= needed).unwrap_or_else(|| aligned(needed));
                Column { data_type: spec.data_type, shape: layout.shape(item, input).to_vec(), row_bytes, free }
            })
            .collect();
        Self {
            columns,
            slots: Vec::new(),
            rows: 0,
            capacity,
            writers: 0,
            is_closed: false,
            is_lent: false,
            oldest: item.ready,
            held_since: None,
        }
    }

    /// A batch that is one portion in its own memory, where that is possible.
    pub(super) fn lent(layout: &Layout, portion: &Portion<Item>) -> Option<Self> {
        if !layout.is_lendable(portion) {
            return None;
        }
        let columns = layout
            .signature
            .inputs
            .iter()
            .enumerate()
            .map(|(input, spec)| {
                let shape = layout.shape(&portion.item, input).to_vec();
                Column { data_type: spec.data_type, shape, row_bytes: 0, free: BytesMut::new() }
            })
            .collect();
        Some(Self {
            columns,
            slots: vec![Slot { portion: portion.clone(), pieces: Vec::new() }],
            rows: portion.rows,
            capacity: portion.rows,
            writers: 0,
            is_closed: true,
            is_lent: true,
            oldest: portion.item.ready,
            held_since: None,
        })
    }

    /// Whether an item's rows have the shape that the batch's rows have.
    pub(super) fn accepts(&self, layout: &Layout, item: &Item) -> bool {
        self.columns
            .iter()
            .enumerate()
            .all(|(input, column)| layout.row_shape(layout.shape(item, input)) == layout.row_shape(&column.shape))
    }

    /// How many more rows may join.
    pub(super) fn room(&self) -> usize {
        if self.is_closed { 0 } else { self.capacity - self.rows }
    }

    /// Nobody else may join.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Its rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether nobody else can join, and whether all that did have written their rows.
    pub(super) fn state(&self) -> (bool, bool) {
        (self.room() == 0, self.writers == 0)
    }

    /// How long its oldest rows have been able to run.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.oldest)
    }

    /// Gives a portion its part of the memory. There must be room for it.
    pub(super) fn reserve(&mut self, portion: Portion<Item>) -> Writing {
        let rows = portion.rows.min(self.capacity - self.rows);
        let pieces = self
            .columns
            .iter_mut()
            .map(|column| match column.data_type.size() {
                Some(_) => Piece::Fixed(column.free.split_to(rows * column.row_bytes)),
                None => Piece::Strings(Vec::new()),
            })
            .collect();
        self.rows += rows;
        self.writers += 1;
        self.oldest = self.oldest.min(portion.item.ready);
        let place = self.slots.len();
        // An image's own memory is needed only until it is copied.
        let item = Item { ticket: Arc::clone(&portion.item.ticket), pixels: None, ready: portion.item.ready };
        self.slots.push(Slot { portion: Portion { item, ..portion }, pieces: Vec::new() });
        Writing { place, portion, pieces }
    }

    /// Takes a written part back, and gives back the memory of an image that was copied.
    pub(super) fn commit(&mut self, writing: Writing) -> Option<BytesMut> {
        if let Some(slot) = self.slots.get_mut(writing.place) {
            slot.pieces = writing.pieces;
            self.writers -= 1;
        }
        writing.portion.item.pixels.and_then(|pixels| pixels.try_into_mut().ok())
    }

    /// The portions, in the order of their rows.
    pub(super) fn portions(&self) -> impl Iterator<Item = &Portion<Item>> {
        self.slots.iter().map(|slot| &slot.portion)
    }

    /// Makes the batch of those portions that are still wanted.
    pub(super) fn finish(self, layout: &Layout, wanted: &[bool]) -> Batch {
        let Self { columns, slots, is_lent, .. } = self;
        let is_wanted = |place: usize| wanted.get(place).copied().unwrap_or(false);
        let rows = (0..slots.len()).filter(|place| is_wanted(*place)).map(|place| slots[place].portion.rows).sum();
        if is_lent {
            let lend =
                |input: usize| slots.first().map_or(Values::Strings(vec![]), |slot| slot.portion.item.lend(input));
            let inputs = columns
                .into_iter()
                .enumerate()
                .map(|(input, column)| BatchInput {
                    data_type: column.data_type,
                    shape: column.shape,
                    values: lend(input),
                })
                .collect();
            return Batch { inputs, rows, rest: Memory::new() };
        }
        let padding = bucket(&layout.buckets, rows) - rows;
        let kept: Vec<(usize, bool)> =
            slots.iter().enumerate().map(|(place, slot)| (slot.portion.rows, is_wanted(place))).collect();
        let mut pieces: Vec<_> = slots.into_iter().map(|slot| slot.pieces.into_iter()).collect();
        let (mut inputs, mut rest) = (Vec::with_capacity(columns.len()), Memory::with_capacity(columns.len()));
        for mut column in columns {
            let elements: usize = layout.row_shape(&column.shape).iter().product();
            let mut bytes = BytesMut::new();
            let mut strings = Vec::new();
            for (part, (_, is_wanted)) in pieces.iter_mut().zip(&kept) {
                match part.next() {
                    Some(Piece::Fixed(part)) => bytes.unsplit(part),
                    Some(Piece::Strings(part)) if *is_wanted => strings.extend(part),
                    Some(Piece::Strings(_)) | None => {}
                }
            }
            if column.data_type.size().is_some() {
                close_gaps(&mut bytes, &mut column.free, column.row_bytes, &kept);
                let mut blank = column.free.split_to(padding * column.row_bytes);
                blank.fill(0);
                bytes.unsplit(blank);
            } else {
                strings.resize(strings.len() + padding * elements, Bytes::new());
            }
            if layout.is_batched
                && let Some(first) = column.shape.first_mut()
            {
                *first = rows + padding;
            }
            let values = if column.data_type.size().is_some() { Values::Own(bytes) } else { Values::Strings(strings) };
            inputs.push(BatchInput { data_type: column.data_type, shape: column.shape, values });
            rest.push(column.free);
        }
        Batch { inputs, rows, rest }
    }
}

/// Moves the rows that are wanted together, and gives the memory behind them back to the free part.
fn close_gaps(bytes: &mut BytesMut, free: &mut BytesMut, row_bytes: usize, kept: &[(usize, bool)]) {
    let (mut from, mut to) = (0, 0);
    for (rows, is_wanted) in kept {
        let length = rows * row_bytes;
        if *is_wanted {
            if from != to {
                bytes.copy_within(from..from + length, to);
            }
            to += length;
        }
        from += length;
    }
    if to < bytes.len() {
        let mut tail = bytes.split_off(to);
        tail.unsplit(std::mem::take(free));
        *free = tail;
    }
}

impl Writing {
    /// Copies the portion's rows into its part of the memory.
    pub(super) fn write(&mut self) {
        let Portion { item, first, rows } = &self.portion;
        for (input, piece) in self.pieces.iter_mut().enumerate() {
            item.write(input, *first, *rows, piece);
        }
    }

    /// How many bytes are to be copied.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| if let Piece::Fixed(piece) = piece { piece.len() } else { 0 }).sum()
    }
}

impl Batch {
    /// The memory, whole again, for another batch; none where it was a request's.
    pub(super) fn into_memory(self) -> Option<Memory> {
        let Self { inputs, rest, .. } = self;
        if rest.is_empty() {
            return None;
        }
        let whole = inputs.into_iter().zip(rest).map(|(input, rest)| match input.values {
            Values::Own(mut bytes) => {
                bytes.unsplit(rest);
                bytes
            }
            Values::Lent(_) | Values::Strings(_) => rest,
        });
        Some(whole.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::ticket::{Content, Ticket},
        model::{Signature, TensorSpec},
        tensor::{Data, Tensor},
    };

    fn layout(buckets: &[usize], width: Option<usize>) -> Layout {
        let spec = TensorSpec { name: "x".to_owned(), data_type: DataType::Uint8, dims: vec![None, width] };
        let signature = Signature { inputs: vec![spec], outputs: vec![], platform: "test" };
        let buckets = buckets.to_vec();
        Layout { signature: Arc::new(signature), is_batched: true, blank: vec![vec![1, 2]], max_rows: 8, buckets }
    }

    fn portion(rows: usize, width: usize, byte: u8) -> Portion<Item> {
        let data = Data::Fixed(Bytes::from(vec![byte; rows * width]));
        let tensor = Tensor { data_type: DataType::Uint8, shape: vec![rows, width], data };
        let now = Instant::now();
        let ticket = Ticket::new(0, [now; 2], 0, (Content::Tensors(vec![tensor]), rows), 1);
        Portion { item: Item { ticket: Arc::new(ticket), pixels: None, ready: now }, first: 0, rows }
    }

    #[test]
    fn rows_that_nobody_wants_leave_no_gap_and_padding_is_zero() {
        let layout = layout(&[2, 6, 8], Some(2));
        let mut memory = None;
        // Twice, the second time in the memory of the first, which the padding must not show.
        for round in 0..2 {
            let portions = [portion(1, 2, 11), portion(2, 2, 22), portion(1, 2, 33), portion(3, 2, 44)];
            let mut forming = Forming::new(&layout, &portions[0].item, memory.take());
            let mut writings: Vec<Writing> = portions.into_iter().map(|portion| forming.reserve(portion)).collect();
            assert_eq!((forming.rows(), forming.room(), forming.state()), (7, 1, (false, false)));
            // Whoever is first is not the first to be done.
            writings.rotate_left(2);
            for mut writing in writings {
                writing.write();
                assert_eq!(forming.commit(writing), None);
            }
            assert!(forming.state().1);
            let wanted = if round == 0 { [true; 4] } else { [true, false, true, false] };
            let batch = forming.finish(&layout, &wanted);
            let expected: (usize, &[u8]) = if round == 0 {
                (7, &[11, 11, 22, 22, 22, 22, 33, 33, 44, 44, 44, 44, 44, 44, 0, 0])
            } else {
                (2, &[11, 11, 33, 33])
            };
            assert_eq!((batch.rows, batch.inputs[0].bytes()), expected);
            assert_eq!(batch.inputs[0].shape, [expected.1.len() / 2, 2]);
            memory = batch.into_memory();
            assert_eq!(memory.as_ref().unwrap()[0].len(), 16, "all of it is there again");
        }
    }

    #[test]
    fn rows_of_another_shape_need_another_batch() {
        let layout = layout(&[], None);
        let forming = Forming::new(&layout, &portion(1, 2, 1).item, None);
        assert!(forming.accepts(&layout, &portion(3, 2, 1).item));
        assert!(!forming.accepts(&layout, &portion(1, 3, 1).item));
    }
}
