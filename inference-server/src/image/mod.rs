//! From a file's bytes to the model's pixels, without an image in memory where the format allows that.
//!
//! A decoder gives rows; the resampler takes them as they come and gives rows of the model's size; a table turns those into
//! the model's numbers, in the memory of the batch. Without options the result is Pillow's: orientation tags are not applied,
//! transparency is dropped, for that is what the models were trained with.

#![expect(
    clippy::inline_always,
    reason = "what a dispatch to the processor's vector instructions calls has to be inlined there"
)]

mod jpeg;
mod limits;
pub mod options;
mod orientation;
mod png;
mod recipe;
mod resample;
mod source;
mod taps;
#[cfg(test)]
mod tests;
mod webp;

use self::{
    limits::MAX_EDGE, options::Preprocessing, orientation::Turn, recipe::Recipe, resample::Resampler, source::Source,
};
use crate::{engine::InferError, failure::Failure, model::Signature};

/// What decoding needs besides the file: one for each thread that decodes, kept from image to image.
#[derive(Debug, Default)]
pub struct Scratch {
    resampler: Resampler,
    buffers: source::Buffers,
    gray: Vec<u8>,
    unturned: Vec<Vec<u8>>,
}

/// Why a file is no image for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It would take more memory or time than the server spends.
    #[error(
        "it has {width} x {height} pixels, and at most {most} are decoded, {MAX_EDGE} along an edge; send it smaller"
    )]
    TooLarge {
        /// Its columns.
        width: usize,
        /// Its rows.
        height: usize,
        /// How many pixels are decoded.
        most: usize,
    },
    /// No photo is so small and so large.
    #[error("its {bytes} bytes claim to be {width} x {height} pixels, and at most {most} a byte are decoded")]
    TooDense {
        /// Its columns.
        width: usize,
        /// Its rows.
        height: usize,
        /// The file's length.
        bytes: usize,
        /// How many pixels a byte may have.
        most: usize,
    },
    /// It is no JPEG file that can be decoded.
    #[error("it can't be decoded as JPEG, PNG or WebP: as JPEG: {0}")]
    Jpeg(#[from] jpeg::Error),
    /// It is damaged or of another kind.
    #[error("it can't be decoded as JPEG, PNG or WebP: {0}")]
    Undecodable(String),
}

/// Turns files into the model's input.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    recipe: Recipe,
}

impl Preprocessor {
    /// What the options make of images for a model; none for the preset None.
    ///
    /// # Errors
    /// When the model has no input for images, or the options contradict it.
    pub fn new(options: impl Into<Preprocessing>, signature: &Signature) -> Result<Option<Self>, Failure> {
        Ok(Recipe::new(&options.into(), signature)?.map(|recipe| Self { recipe }))
    }

    /// Decodes a file into the model's input: planes of red, green and blue, normalised. `out` is as long as
    /// [`Preprocessor::values`] says; after an error it holds anything.
    ///
    /// # Errors
    /// When the file is no image that the server decodes.
    pub fn decode_into(&self, file: &[u8], scratch: &mut Scratch, out: &mut [f32]) -> Result<(), ImageError> {
        let Recipe { width, height, ref tables, .. } = self.recipe;
        self.rows_into(file, scratch, &mut |row, values| {
            let planes = out.chunks_exact_mut(width * height).zip(values.chunks_exact(width)).zip(tables);
            for ((plane, values), table) in planes {
                for (out, value) in plane[row * width..].iter_mut().zip(values) {
                    *out = table[usize::from(*value)];
                }
            }
        })
    }

    /// How many values an image is in the model's input.
    pub fn values(&self) -> usize {
        3 * self.recipe.width * self.recipe.height
    }

    /// The input's shape for a number of images.
    pub fn shape(&self, rows: usize) -> Vec<usize> {
        vec![rows, 3, self.recipe.height, self.recipe.width]
    }

    /// Decodes a file and gives each row of the model's size: red, green, blue.
    fn rows_into(
        &self,
        file: &[u8],
        scratch: &mut Scratch,
        finish: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ImageError> {
        let source = Source::open(file)?;
        self.recipe.limits.check(file.len(), source.size())?;
        let turn = if self.recipe.is_turned { source.turn() } else { Turn::default() };
        let reduction = source.reduction(if self.recipe.is_reduced { self.recipe.decoded_side() } else { usize::MAX });
        let (horizontal, vertical) = self.recipe.axes(turn.size(source.size()), reduction.divisor());
        let planes = source.planes();

        let Scratch { resampler, buffers, gray, unturned } = scratch;
        resampler.begin(horizontal, vertical, planes);
        let window = (resampler.columns(), resampler.rows());
        let mut resample = |row: &[&[u8]]| {
            resampler.push(row, |output, values| {
                if planes == 1 {
                    gray.clear();
                    (0..3).for_each(|_| gray.extend_from_slice(values));
                    finish(output, gray);
                } else {
                    finish(output, values);
                }
            });
        };
        if turn == Turn::default() {
            return source.decode(reduction, window, buffers, &mut resample);
        }
        let (width, height) = source.size();
        let stored = (width.div_ceil(reduction.divisor()), height.div_ceil(reduction.divisor()));
        let (columns, rows) = turn.window(window, stored);
        let size = (columns.len(), rows.len());
        unturned.resize(planes, Vec::new());
        unturned.iter_mut().for_each(Vec::clear);
        source.decode(reduction, (columns, rows), buffers, &mut |row| {
            for (plane, samples) in unturned.iter_mut().zip(row) {
                plane.extend_from_slice(samples);
            }
        })?;
        turn.rows(unturned, size, &mut resample);
        Ok(())
    }
}

impl ImageError {
    /// The error of the request whose image this is.
    pub fn into_infer_error(self, place: usize) -> InferError {
        let message = format!("image {place}: {self}");
        match self {
            Self::TooLarge { .. } | Self::TooDense { .. } => InferError::TooLarge(message),
            Self::Jpeg(_) | Self::Undecodable(_) => InferError::Invalid(message),
        }
    }
}
