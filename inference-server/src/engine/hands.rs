//! The threads that decode images, one image at a time, and copy tensors for busy devices.
//!
//! Decoding never runs on the threads that serve the network. The unit of work is an image and not a request, so that the
//! images of one request use all cores. A thread decodes into memory of its own and then copies into the batch: a photo of
//! twelve megapixels takes as long as a whole batch of small ones, which must not wait for it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use bytes::{Bytes, BytesMut};

use super::{
    shared::{Pulse, Shared},
    state::File,
    ticket::{Content, Ticket},
};
use crate::{
    device::aligned,
    image::{ImageError, Preprocessor, Scratch},
    metrics::Metrics,
};

/// One of the threads.
pub(super) struct Hand {
    /// What waits.
    pub(super) shared: Arc<Shared>,
    /// How a file becomes the model's input; none for a model of tensors.
    pub(super) preprocessor: Option<Arc<Preprocessor>>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
}

impl Hand {
    /// Starts the thread. It ends with the engine.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(self, index: usize) -> std::io::Result<()> {
        thread::Builder::new().name(format!("decode-{index}")).spawn(move || self.run()).map(drop)
    }

    fn run(self) {
        let _pulse = Pulse(&self.shared);
        let mut scratch = Scratch::default();
        while let Some(File { ticket, place, memory }) = self.shared.next_file() {
            let (result, took) = ticket.decode(|| self.decode(&ticket, place, memory, &mut scratch));
            self.metrics.decode_duration.observe(took.as_secs_f64());
            match result {
                Ok(pixels) => self.shared.add_pixels(&ticket, place, pixels, took),
                Err(error) => self.shared.fail(&ticket, error.into_infer_error(place)),
            }
        }
    }

    /// The model's input for one image.
    fn decode(
        &self,
        ticket: &Ticket,
        place: usize,
        memory: Option<BytesMut>,
        scratch: &mut Scratch,
    ) -> Result<Bytes, ImageError> {
        let file = match &ticket.content {
            Content::Images(files) => files.get(place),
            Content::Tensors(_) | Content::Blank => None,
        };
        let (Some(file), Some(preprocessor)) = (file, &self.preprocessor) else {
            return Err(ImageError::Undecodable("there is no file".to_owned()));
        };
        let mut row = memory.unwrap_or_else(|| aligned(preprocessor.values() * size_of::<f32>()));
        let values = bytemuck::try_cast_slice_mut(&mut row)
            .map_err(|error| ImageError::Undecodable(format!("there is no memory for it: {error}")))?;
        // A file that makes a decoder panic costs its sender an error, and nobody else anything.
        catch_unwind(AssertUnwindSafe(|| preprocessor.decode_into(file, scratch, values))).unwrap_or_else(|_| {
            *scratch = Scratch::default();
            Err(ImageError::Undecodable("the decoder gave up on it".to_owned()))
        })?;
        Ok(row.freeze())
    }
}
