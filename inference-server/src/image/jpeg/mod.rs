//! JPEG: the pixels that libjpeg-turbo gives with its default settings, to the bit, in safe code and a row at a time.
//!
//! What the standard leaves open is done as libjpeg does it, for Pillow and with it every model's training uses that: the "slow
//! integer" cosine transform, smoothed chroma, its colour conversion, its rules for what components mean, its reduced sizes.
//! The rows of the result that nobody wants are not made, and neither are the columns: their bits are read, no more. Sequential
//! files, nearly all, are never in memory as a whole; progressive ones as coefficients. Unlike libjpeg, which makes up what is
//! missing, this decoder refuses damaged files. Arithmetic-coded and lossless ones, which browsers don't show either, too.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are masked, clamped, or wrap as they do in libjpeg-turbo"
)]

mod bits;
mod colour;
mod header;
mod huffman;
mod idct;
mod output;
mod planes;
mod scan;

use std::ops::Range;

use fearless_simd::{Level, Simd, dispatch};

use self::{
    header::{Scan, Segments},
    output::Output,
    scan::{Coefficients, Stream},
};

/// More scans than this are no photo: each may make the decoder look at every coefficient.
pub const MAX_SCANS: usize = 32;

/// Why a file can't be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// It says what can't be.
    #[error("{0}")]
    Damaged(&'static str),
    /// It uses what hardly any file does.
    #[error("{0}, which this decoder does not know")]
    Unsupported(&'static str),
    /// It has too many scans.
    #[error("it has more than {MAX_SCANS} scans")]
    TooManyScans,
}

/// Memory that is kept from file to file.
#[derive(Debug, Default)]
pub struct Buffers {
    clean: Vec<u8>,
    coefficients: Vec<Coefficients>,
}

/// A file whose size is known, and nothing more.
#[derive(Debug)]
pub struct Jpeg<'a> {
    segments: Segments<'a>,
    scan: Scan,
}

/// How much smaller than it is an image is decoded, along each edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Not at all.
    None,
    /// To a half.
    Half,
    /// To a quarter.
    Quarter,
    /// To an eighth.
    Eighth,
}

impl Reduction {
    /// The strongest that divides by no more than that.
    pub fn by(most: usize) -> Self {
        match most {
            0 | 1 => Self::None,
            2 | 3 => Self::Half,
            4..=7 => Self::Quarter,
            _ => Self::Eighth,
        }
    }

    /// What an edge is divided by.
    pub fn divisor(self) -> usize {
        match self {
            Self::None => 1,
            Self::Half => 2,
            Self::Quarter => 4,
            Self::Eighth => 8,
        }
    }
}

impl<'a> Jpeg<'a> {
    /// Reads up to the first scan.
    ///
    /// # Errors
    /// When the file is damaged, or not of a kind that is decoded.
    pub fn open(file: &'a [u8]) -> Result<Self, Error> {
        let mut segments = Segments::new(file)?;
        let scan = segments.next_scan()?.ok_or(Error::Truncated)?;
        Ok(Self { segments, scan })
    }

    /// Columns and rows of pixels.
    pub fn size(&self) -> (usize, usize) {
        self.segments.frame.as_ref().map_or((0, 0), |frame| (frame.width, frame.height))
    }

    /// The camera's metadata, where there are some: a TIFF file.
    pub fn exif(&self) -> Option<&'a [u8]> {
        self.segments.exif
    }

    /// One, or three for red, green and blue.
    pub fn planes(&self) -> usize {
        self.segments.frame.as_ref().map_or(0, |frame| if frame.components.len() == 1 { 1 } else { 3 })
    }

    /// Whether the scans refine each other or have one component each, so that all coefficients are kept in memory.
    pub fn is_kept_whole(&self) -> bool {
        self.segments
            .frame
            .as_ref()
            .is_some_and(|frame| frame.is_progressive || self.scan.components.len() != frame.components.len())
    }

    /// Decodes, and gives the wanted part of the wanted rows: for each plane its samples.
    ///
    /// # Errors
    /// When the file is damaged, or not of a kind that is decoded. Some rows may have been given before.
    pub fn decode(
        self,
        reduction: Reduction,
        (columns, rows): (Range<usize>, Range<usize>),
        buffers: &mut Buffers,
        sink: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), Error> {
        let is_kept_whole = self.is_kept_whole();
        let wanted = (8 / reduction.divisor(), columns, rows);
        if is_kept_whole {
            dispatch!(Level::new(), simd => self.by_coefficients(simd, wanted, buffers, sink))
        } else {
            dispatch!(Level::new(), simd => self.row_by_row(simd, wanted, buffers, sink))
        }
    }

    #[inline(always)]
    fn row_by_row<S: Simd>(
        self,
        simd: S,
        (edge, columns, rows): (usize, Range<usize>, Range<usize>),
        buffers: &mut Buffers,
        sink: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), Error> {
        let (file, position) = self.segments.entropy_coded();
        let Segments { frame, tables, .. } = self.segments;
        let frame = frame.ok_or(Error::Truncated)?;
        let mut output = Output::new(&frame, &tables, edge, columns, rows)?;
        let (across, down) = frame.units();
        let mut stream = Stream::new(file, position, tables.restart_interval, &mut buffers.clean);
        for row in 0..down {
            scan::units(simd, (&self.scan, &frame, &tables), &mut stream, (row, across), &mut output)?;
            output.emit(row + 1, sink);
            if output.is_done() {
                break;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn by_coefficients<S: Simd>(
        mut self,
        simd: S,
        (edge, columns, rows): (usize, Range<usize>, Range<usize>),
        buffers: &mut Buffers,
        sink: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), Error> {
        let frame = self.segments.frame.clone().ok_or(Error::Truncated)?;
        let units = frame.units();
        buffers.coefficients.resize_with(frame.components.len(), Coefficients::default);
        for (component, coefficients) in frame.components.iter().zip(&mut buffers.coefficients) {
            coefficients.clear(units.0 * component.across, units.1 * component.down);
        }
        let mut is_known = [false; 4];
        let (mut scan, mut scans) = (Some(self.scan), 0);
        while let Some(part) = scan {
            scans += 1;
            if scans > MAX_SCANS {
                return Err(Error::TooManyScans);
            }
            let (file, position) = self.segments.entropy_coded();
            let tables = &self.segments.tables;
            let mut stream = Stream::new(file, position, tables.restart_interval, &mut buffers.clean);
            scan::collect((&part, &frame, tables), &mut stream, units, &mut buffers.coefficients)?;
            let position = stream.position();
            part.components.iter().filter(|_| part.start == 0).for_each(|part| is_known[part.component] = true);
            if !frame.is_progressive && is_known.iter().take(frame.components.len()).all(|is_known| *is_known) {
                break;
            }
            self.segments.go_on_at(position);
            scan = self.segments.next_scan()?;
        }
        if !is_known.iter().take(frame.components.len()).all(|is_known| *is_known) {
            return Err(Error::Truncated);
        }
        let mut output = Output::new(&frame, &self.segments.tables, edge, columns, rows)?;
        for row in 0..units.1 {
            scan::transform(simd, &frame, row, &buffers.coefficients, &mut output);
            output.emit(row + 1, sink);
            if output.is_done() {
                break;
            }
        }
        Ok(())
    }
}
