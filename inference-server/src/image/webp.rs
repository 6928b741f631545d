//! WebP, lossy and lossless, by the `image-webp` crate. It decodes images as a whole.

use std::{io::Cursor, ops::Range};

use image_webp::WebPDecoder;

use super::{ImageError, png::interleaved};

/// A file whose header was read.
pub struct WebP<'a> {
    decoder: WebPDecoder<Cursor<&'a [u8]>>,
    exif: Option<&'a [u8]>,
}

impl std::fmt::Debug for WebP<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WebP").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl<'a> WebP<'a> {
    /// Reads the header, and looks whether the image behind it has the size that it says: the decoder finds out too late.
    ///
    /// # Errors
    /// When the file is damaged or an animation.
    pub fn open(file: &'a [u8]) -> Result<Self, ImageError> {
        let decoder = WebPDecoder::new(Cursor::new(file)).map_err(damaged)?;
        if decoder.is_animated() {
            return Err(damaged("it is an animation; send one image"));
        }
        let (width, height) = decoder.dimensions();
        for (name, payload) in chunks(file) {
            if image_size(*name, payload).is_some_and(|size| size != (width, height)) {
                return Err(damaged("its parts differ in size"));
            }
        }
        let exif = chunks(file).find(|(name, _)| *name == b"EXIF").map(|(_, payload)| payload);
        Ok(Self { decoder, exif: exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)) })
    }

    /// Columns and rows of pixels.
    pub fn size(&self) -> (usize, usize) {
        let (width, height) = self.decoder.dimensions();
        (width as usize, height as usize)
    }

    /// The camera's metadata, where there are some: a TIFF file.
    pub fn exif(&self) -> Option<&[u8]> {
        self.exif
    }

    /// Decodes, and gives the wanted part of the wanted rows: for each plane its samples.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn decode(
        mut self,
        (columns, rows): (Range<usize>, Range<usize>),
        planes: &mut [Vec<u8>; 3],
        whole: &mut Vec<u8>,
        sink: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), ImageError> {
        let channels = if self.decoder.has_alpha() { 4 } else { 3 };
        let (width, height) = self.size();
        whole.clear();
        whole.resize(width * height * channels, 0);
        self.decoder.read_image(whole).map_err(damaged)?;
        for row in whole.chunks_exact(width * channels).skip(rows.start).take(rows.len()) {
            interleaved(&row[columns.start * channels..columns.end * channels], (channels, 3), planes, sink);
        }
        Ok(())
    }
}

/// The file's chunks: name and payload.
fn chunks(file: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = file.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (name, behind) = rest.split_first_chunk::<4>()?;
        let (length, behind) = behind.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let payload = &behind[..length.min(behind.len())];
        // Chunks begin at even places.
        rest = behind.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some((name, payload))
    })
}

/// The size that the bits of an image claim.
fn image_size(name: [u8; 4], payload: &[u8]) -> Option<(u32, u32)> {
    match &name {
        b"VP8 " => {
            let [w0, w1, h0, h1] = *payload.get(6..10)?.first_chunk::<4>()?;
            let edge = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((edge(w0, w1), edge(h0, h1)))
        }
        b"VP8L" => {
            let bits = u32::from_le_bytes(*payload.get(1..5)?.first_chunk::<4>()?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        _ => None,
    }
}

fn damaged(error: impl std::fmt::Display) -> ImageError {
    ImageError::Undecodable(format!("as WebP: {error}"))
}
