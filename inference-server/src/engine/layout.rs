//! What the batches of one model have in common, and the rows that go into them.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    batch::bucket,
    order::Portion,
    ticket::{Content, Ticket},
};
use crate::{
    device::{Values, is_aligned},
    model::Signature,
    tensor::Data,
};

/// The most memory for a batch whose rows have an open size; rows of a known size get what they need.
const MAX_OPEN_BYTES: usize = 256 << 20;

/// What all batches of a model have in common.
#[derive(Debug)]
pub(super) struct Layout {
    /// What the model takes and gives.
    pub(super) signature: Arc<Signature>,
    /// Whether the first dimension is the batch.
    pub(super) is_batched: bool,
    /// The shape of one image, or of one row that nobody looks at, for each input.
    pub(super) blank: Vec<Vec<usize>>,
    /// The most rows.
    pub(super) max_rows: usize,
    /// The sizes that the device takes; empty for any.
    pub(super) buckets: Vec<usize>,
}

/// Rows that are able to run: a request's tensors, or one of its images.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The request.
    pub(super) ticket: Arc<Ticket>,
    /// The model's input for one image.
    pub(super) pixels: Option<Bytes>,
    /// When the rows became able to run.
    pub(super) ready: Instant,
}

/// A portion's part of the memory of one input.
#[derive(Debug)]
pub(super) enum Piece {
    /// Elements of a fixed size.
    Fixed(BytesMut),
    /// The elements of a BYTES input.
    Strings(Vec<Bytes>),
}

impl Layout {
    /// The shape of an item's tensor for one input.
    pub(super) fn shape<'a>(&'a self, item: &'a Item, input: usize) -> &'a [usize] {
        match &item.ticket.content {
            Content::Tensors(tensors) => tensors.get(input).map_or(&[], |tensor| tensor.shape.as_slice()),
            Content::Images(_) | Content::Blank => self.blank.get(input).map_or(&[], Vec::as_slice),
        }
    }

    /// What must be equal for two requests to share a batch.
    pub(super) fn row_shape<'a>(&self, shape: &'a [usize]) -> &'a [usize] {
        if self.is_batched { shape.get(1..).unwrap_or_default() } else { shape }
    }

    /// The most rows of a batch of rows like this item's: fewer than the model takes only where its rows have an open size.
    pub(super) fn capacity(&self, item: &Item) -> usize {
        let inputs = &self.signature.inputs;
        let is_open = inputs.iter().any(|spec| spec.dims.iter().skip(1).any(Option::is_none));
        match MAX_OPEN_BYTES.checked_div(self.all_row_bytes(item)) {
            Some(rows) if is_open => self.max_rows.min(rows.max(1)),
            _ => self.max_rows,
        }
    }

    /// The bytes of one row of an item for one input; none for strings.
    pub(super) fn row_bytes(&self, item: &Item, input: usize) -> usize {
        let elements: usize = self.row_shape(self.shape(item, input)).iter().product();
        elements * self.signature.inputs.get(input).and_then(|spec| spec.data_type.size()).unwrap_or(0)
    }

    /// The bytes of one row of an item for all inputs.
    pub(super) fn all_row_bytes(&self, item: &Item) -> usize {
        (0..self.signature.inputs.len()).map(|input| self.row_bytes(item, input)).sum()
    }

    /// Whether a portion can be a batch without being copied.
    pub(super) fn is_lendable(&self, portion: &Portion<Item>) -> bool {
        let item = &portion.item;
        let is_whole = bucket(&self.buckets, portion.rows) == portion.rows && portion.rows == item.ticket.rows;
        is_whole
            && match (&item.ticket.content, &item.pixels) {
                (Content::Tensors(tensors), _) => tensors.iter().all(|tensor| match &tensor.data {
                    Data::Fixed(bytes) => is_aligned(bytes, tensor.data_type),
                    Data::Strings(_) => true,
                }),
                (Content::Images(_), Some(_)) => true,
                (Content::Images(_) | Content::Blank, _) => false,
            }
    }
}

impl Item {
    /// Copies some of its rows for one input.
    pub(super) fn write(&self, input: usize, first: usize, rows: usize, piece: &mut Piece) {
        match (&self.ticket.content, &self.pixels, piece) {
            (Content::Tensors(tensors), _, piece) => match (tensors.get(input).map(|tensor| &tensor.data), piece) {
                (Some(Data::Fixed(bytes)), Piece::Fixed(to)) => {
                    let row = bytes.len() / self.ticket.rows.max(1);
                    copy(bytes.get(first * row..(first + rows) * row).unwrap_or_default(), to);
                }
                (Some(Data::Strings(strings)), Piece::Strings(to)) => {
                    let row = strings.len() / self.ticket.rows.max(1);
                    to.extend_from_slice(strings.get(first * row..(first + rows) * row).unwrap_or_default());
                }
                _ => {}
            },
            (_, Some(pixels), Piece::Fixed(to)) => copy(pixels, to),
            (_, None, Piece::Fixed(to)) => to.fill(0),
            (_, _, Piece::Strings(_)) => {}
        }
    }

    /// Its elements for one input, when it is the whole batch.
    pub(super) fn lend(&self, input: usize) -> Values {
        match (&self.ticket.content, &self.pixels) {
            (Content::Tensors(tensors), _) => match tensors.get(input).map(|tensor| &tensor.data) {
                Some(Data::Fixed(bytes)) => Values::Lent(bytes.clone()),
                Some(Data::Strings(strings)) => Values::Strings(strings.clone()),
                None => Values::Strings(Vec::new()),
            },
            (_, Some(pixels)) => Values::Lent(pixels.clone()),
            (_, None) => Values::Strings(Vec::new()),
        }
    }
}

/// Both have the same length, by the checks at admission; a panic here would leave a batch unfinished for ever.
fn copy(from: &[u8], to: &mut [u8]) {
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::TensorSpec,
        tensor::{DataType, Tensor},
    };

    #[test]
    fn huge_rows_make_small_batches() {
        let spec = TensorSpec { name: "x".to_owned(), data_type: DataType::Uint8, dims: vec![None, None] };
        let signature = Arc::new(Signature { inputs: vec![spec], outputs: vec![], platform: "test" });
        let layout = Layout { signature, is_batched: true, blank: vec![], max_rows: 8, buckets: vec![] };
        for (width, expected) in [(2, 8), (MAX_OPEN_BYTES / 4, 4), (MAX_OPEN_BYTES / 2 + 1, 1)] {
            let now = Instant::now();
            let shape = vec![1, width];
            let tensor = Tensor { data_type: DataType::Uint8, shape, data: Data::Fixed(Bytes::new()) };
            let ticket = Arc::new(Ticket::new(0, [now; 2], 0, (Content::Tensors(vec![tensor]), 1), 1));
            assert_eq!(layout.capacity(&Item { ticket, pixels: None, ready: now }), expected, "{width}");
        }
    }
}
