//! What passes from stage to stage: a request that is ready to run, and a batch of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Answer, InferError, waiting::Clock};
use crate::{
    device::BatchInput,
    image::{Pixels, Preprocessor},
    model::Signature,
    tensor::{Column, Tensor},
};

/// A request whose inputs only need to be copied into a batch.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its state, shared with its caller.
    pub(super) clock: Arc<Clock>,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Result<Answer, InferError>>,
    /// Its rows in a batch.
    pub(super) rows: usize,
    /// What it brings.
    pub(super) content: Content,
    /// When it became able to run.
    pub(super) ready: Instant,
}

/// A request's inputs.
#[derive(Debug)]
pub(super) enum Content {
    /// One tensor for each input.
    Tensors(Vec<Tensor>),
    /// Decoded images for the one image input.
    Pixels(Vec<Pixels>),
    /// Images that the device does not look at.
    Blank,
}

/// A request's place in a batch, after its content was copied.
#[derive(Debug)]
pub(super) struct Member {
    /// Its state, shared with its caller.
    pub(super) clock: Arc<Clock>,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Result<Answer, InferError>>,
    /// Its rows.
    pub(super) rows: usize,
    /// When it became able to run.
    pub(super) ready: Instant,
}

/// A batch: the memory that the device reads, and who gets which rows.
#[derive(Debug)]
pub(super) struct Batch {
    /// One for each of the model's inputs.
    pub(super) inputs: Vec<BatchInput>,
    /// In the order of their rows.
    pub(super) members: Vec<Member>,
    /// All rows.
    pub(super) rows: usize,
    /// Since when the device stood idle only because of the batching delay.
    pub(super) held_since: Option<Instant>,
}

impl Batch {
    /// An empty batch with memory for `max_rows` where the model's sizes are known.
    pub(super) fn new(signature: &Signature, max_rows: usize) -> Self {
        let inputs = signature
            .inputs
            .iter()
            .map(|spec| {
                let row: Option<usize> = spec.dims.iter().skip(1).copied().product();
                // Memory for an open size is taken when a request brings it.
                BatchInput { shape: Vec::new(), column: Column::new(spec.data_type, row.unwrap_or(0) * max_rows) }
            })
            .collect();
        Self { inputs, members: Vec::new(), rows: 0, held_since: None }
    }

    /// Forgets the members and keeps the memory.
    pub(super) fn clear(&mut self) {
        for input in &mut self.inputs {
            input.column.clear();
            input.shape.clear();
        }
        self.members.clear();
        self.rows = 0;
        self.held_since = None;
    }

    /// Whether an entry's rows have the shape that the batch's rows have.
    pub(super) fn accepts(&self, entry: &Entry) -> bool {
        match &entry.content {
            Content::Tensors(tensors) if self.rows > 0 => {
                self.inputs.iter().zip(tensors).all(|(input, tensor)| input.shape.get(1..) == tensor.shape.get(1..))
            }
            Content::Tensors(_) | Content::Pixels(_) | Content::Blank => true,
        }
    }

    /// Copies an entry in.
    pub(super) fn push(&mut self, entry: Entry, signature: &Signature, preprocessor: Option<&Preprocessor>) {
        match &entry.content {
            Content::Tensors(tensors) => {
                for (input, tensor) in self.inputs.iter_mut().zip(tensors) {
                    input.column.extend(&tensor.data);
                    input.shape.clone_from(&tensor.shape);
                }
            }
            Content::Pixels(images) => {
                if let (Some(input), Some(preprocessor)) = (self.inputs.first_mut(), preprocessor)
                    && let Column::Fp32(values) = &mut input.column
                {
                    for pixels in images {
                        preprocessor.append(pixels, values);
                    }
                    input.shape = preprocessor.shape(entry.rows);
                }
            }
            Content::Blank => {
                for (input, spec) in self.inputs.iter_mut().zip(&signature.inputs) {
                    let row: Vec<usize> = spec.dims.iter().skip(1).map(|dim| dim.unwrap_or(1)).collect();
                    if let Column::Fp32(values) = &mut input.column {
                        values.resize(values.len() + row.iter().product::<usize>() * entry.rows, 0.0);
                    }
                    input.shape = std::iter::once(entry.rows).chain(row).collect();
                }
            }
        }
        self.rows += entry.rows;
        self.members.push(Member { clock: entry.clock, reply: entry.reply, rows: entry.rows, ready: entry.ready });
    }

    /// Takes out the rows of members whose callers are gone, so that they cost the device nothing.
    pub(super) fn drop_abandoned(&mut self) {
        let mut end = self.rows;
        for index in (0..self.members.len()).rev() {
            let start = end - self.members[index].rows;
            if !self.members[index].clock.is_waiting() {
                for input in &mut self.inputs {
                    input.column.remove(start, end, self.rows);
                }
                self.rows -= self.members[index].rows;
                self.members.remove(index);
            }
            end = start;
        }
    }

    /// Writes the number of rows into the inputs' shapes, when the batch is about to run.
    pub(super) fn seal(&mut self, is_batched: bool) {
        if is_batched {
            for input in &mut self.inputs {
                if let Some(first) = input.shape.first_mut() {
                    *first = self.rows;
                }
            }
        }
    }

    /// How long the oldest member has been able to run.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.members.iter().map(|member| now.saturating_duration_since(member.ready)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        engine::waiting::{Board, Ticket},
        model::TensorSpec,
        tensor::{Data, DataType},
    };

    fn signature() -> Signature {
        let input = TensorSpec { name: "x".to_owned(), data_type: DataType::Uint8, dims: vec![None, None] };
        Signature { inputs: vec![input], outputs: vec![], platform: "test" }
    }

    fn entry(board: &Arc<Board>, rows: usize, width: usize, byte: u8) -> (Ticket, Entry) {
        let ticket = board.admit(rows, Instant::now(), 1).unwrap();
        let data = Data::Fixed(Bytes::from(vec![byte; rows * width]));
        let tensor = Tensor { data_type: DataType::Uint8, shape: vec![rows, width], data };
        let (reply, _) = oneshot::channel();
        let content = Content::Tensors(vec![tensor]);
        let entry = Entry { clock: ticket.clock(), reply, rows, content, ready: Instant::now() };
        (ticket, entry)
    }

    #[test]
    fn the_rows_of_those_who_left_are_taken_out() {
        let board = Arc::new(Board::new(8));
        let mut batch = Batch::new(&signature(), 8);
        let mut tickets = Vec::new();
        for (rows, byte) in [(1, 1), (2, 2), (1, 3), (3, 4)] {
            let (ticket, entry) = entry(&board, rows, 2, byte);
            assert!(batch.accepts(&entry));
            batch.push(entry, &signature(), None);
            tickets.push(Some(ticket));
        }
        tickets[1] = None;
        tickets[3] = None;
        batch.drop_abandoned();
        batch.seal(true);
        assert_eq!(batch.inputs[0], BatchInput { shape: vec![2, 2], column: Column::Uint8(vec![1, 1, 3, 3]) });
        assert_eq!(batch.members.iter().map(|member| member.rows).collect::<Vec<_>>(), [1, 1]);
        batch.clear();
        assert_eq!((batch.rows, batch.inputs[0].column.len()), (0, 0));
    }

    #[test]
    fn rows_of_another_shape_need_another_batch() {
        let board = Arc::new(Board::new(8));
        let mut batch = Batch::new(&signature(), 8);
        let (_first, narrow) = entry(&board, 1, 2, 1);
        let (_second, wide) = entry(&board, 1, 3, 1);
        assert!(batch.accepts(&wide), "an empty batch takes any shape");
        batch.push(narrow, &signature(), None);
        assert!(!batch.accepts(&wide));
    }
}
