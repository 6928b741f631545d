//! PNG: rows of what Pillow's conversion to RGB gives, by the `png` crate.
//!
//! Of 16 bits the upper eight are kept, as Pillow does for colours; in grey images of 16 bits Pillow cuts everything above 255
//! off, which leaves most of them white, and that is not copied. Transparency is dropped. Of an animation, the image is
//! decoded that viewers without animations show.

use std::{io::Cursor, ops::Range};

use png::{Decoder, Limits, Reader, Transformations};

use super::ImageError;

/// What the decoder may spend on rows and on the metadata that it keeps; texts and colour profiles are skipped unread.
const MEMORY: usize = 8 << 20;

/// A file whose header was read.
pub struct Png<'a> {
    reader: Reader<Cursor<&'a [u8]>>,
    channels: usize,
}

impl std::fmt::Debug for Png<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Png").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl<'a> Png<'a> {
    /// Reads what comes before the pixels.
    ///
    /// # Errors
    /// When that is damaged, or takes too much memory.
    pub fn open(file: &'a [u8]) -> Result<Self, ImageError> {
        let mut decoder = Decoder::new_with_limits(Cursor::new(file), Limits { bytes: MEMORY });
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let reader = decoder.read_info().map_err(damaged)?;
        let channels = reader.output_color_type().0.samples();
        Ok(Self { reader, channels })
    }

    /// Columns and rows of pixels.
    pub fn size(&self) -> (usize, usize) {
        let info = self.reader.info();
        (info.width as usize, info.height as usize)
    }

    /// One, or three for red, green and blue.
    pub fn planes(&self) -> usize {
        if self.channels < 3 { 1 } else { 3 }
    }

    /// The camera's metadata, where there are some: a TIFF file.
    pub fn exif(&self) -> Option<&[u8]> {
        self.reader.info().exif_metadata.as_deref()
    }

    /// Decodes, and gives the wanted part of the wanted rows: for each plane its samples.
    ///
    /// # Errors
    /// When the file is damaged. Some rows may have been given before.
    pub fn decode(
        mut self,
        (columns, rows): (Range<usize>, Range<usize>),
        planes: &mut [Vec<u8>; 3],
        whole: &mut Vec<u8>,
        sink: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), ImageError> {
        let (width, _) = self.size();
        let part = columns.start * self.channels..columns.end * self.channels;
        let channels = (self.channels, self.planes());
        let mut give = |row: &[u8]| interleaved(&row[part.clone()], channels, planes, sink);
        if self.reader.info().interlaced {
            // Its rows come in seven rounds, so it has to be in memory as a whole.
            let size = self.reader.output_buffer_size().ok_or_else(|| damaged("it is too large"))?;
            whole.clear();
            whole.resize(size, 0);
            self.reader.next_frame(whole).map_err(damaged)?;
            whole.chunks_exact(width * self.channels).skip(rows.start).take(rows.len()).for_each(give);
            return Ok(());
        }
        for row in 0..rows.end {
            let Some(samples) = self.reader.next_row().map_err(damaged)? else {
                return Err(damaged("it has too few rows"));
            };
            if row >= rows.start {
                give(samples.data());
            }
        }
        Ok(())
    }
}

/// Gives a row of interleaved samples as planes: the first `count` of so many channels.
pub fn interleaved(
    row: &[u8],
    (channels, count): (usize, usize),
    planes: &mut [Vec<u8>; 3],
    sink: &mut dyn FnMut(&[&[u8]]),
) {
    for (channel, plane) in planes.iter_mut().enumerate().take(count) {
        plane.clear();
        match channels {
            // Known sizes, so that the compiler can shuffle many at once.
            1 => plane.extend_from_slice(row),
            2 => plane.extend(row.as_chunks::<2>().0.iter().map(|pixel| pixel[channel])),
            3 => plane.extend(row.as_chunks::<3>().0.iter().map(|pixel| pixel[channel])),
            _ => plane.extend(row.as_chunks::<4>().0.iter().map(|pixel| pixel[channel])),
        }
    }
    let [first, second, third] = planes;
    if count == 1 { sink(&[first]) } else { sink(&[first, second, third]) }
}

fn damaged(error: impl std::fmt::Display) -> ImageError {
    ImageError::Undecodable(format!("as PNG: {error}"))
}
