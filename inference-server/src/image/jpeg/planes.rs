//! The components' samples, as few rows of them as the output needs at once, and how they become as many as there are pixels.

use std::ops::Range;

use super::{Error, header::Frame, idct::Samples};

/// What turns a component's samples into one for each pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expand {
    /// There are as many.
    Whole,
    /// Three quarters of the nearer and one of the further, across.
    Across,
    /// The same, down.
    Down,
    /// The same, both ways.
    Both,
    /// Each is repeated, so often across and down.
    Repeat(usize, usize),
}

/// One component.
#[derive(Debug)]
pub struct Plane {
    expand: Expand,
    /// Columns and rows of its samples that belong to the image.
    width: usize,
    height: usize,
    /// The edge of a block of samples: 8, or less in a reduced image.
    pub edge: usize,
    /// Blocks of a unit, down.
    pub down: usize,
    /// The blocks of a row that matter.
    pub blocks: Range<usize>,
    /// The rows in memory: a row's number modulo `rows` is its place.
    rows: usize,
    stride: usize,
    samples: Vec<u8>,
    expanded: Vec<u8>,
    sums: Vec<u16>,
}

/// All components, with the columns of the output that matter.
#[derive(Debug)]
pub struct Planes {
    pub list: Vec<Plane>,
    columns: Range<usize>,
}

impl Planes {
    /// Room for a frame whose blocks become samples of `edge` x `edge`.
    ///
    /// # Errors
    /// When the samplings don't go into each other.
    pub fn new(frame: &Frame, edge: usize, columns: Range<usize>) -> Result<Self, Error> {
        let (most_across, most_down) = frame.most();
        let list = frame
            .components
            .iter()
            .map(|component| {
                let (across, down) = (component.across, component.down);
                // In a reduced image, what has fewer samples is reduced less, where that makes up for it.
                let mut own = edge;
                while own < 8
                    && (most_across * edge).is_multiple_of(across * own * 2)
                    && (most_down * edge).is_multiple_of(down * own * 2)
                {
                    own *= 2;
                }
                let width = (frame.width * across * own).div_ceil(most_across * 8);
                let height = (frame.height * down * own).div_ceil(most_down * 8);
                let ratios = (most_across * edge, across * own, most_down * edge, down * own);
                let expand = Expand::of(ratios, edge > 1, width)?;
                let needed = expand.columns(&columns, width);
                let blocks = needed.start / own..needed.end.div_ceil(own);
                let stride = blocks.len() * own + 2;
                let rows = down * own * 2;
                let samples = vec![0; rows * stride];
                Ok(Plane {
                    expand,
                    width,
                    height,
                    edge: own,
                    down,
                    blocks,
                    rows,
                    stride,
                    samples,
                    expanded: vec![],
                    sums: vec![],
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { list, columns })
    }

    /// Whether a row of the output can be made when so many rows of units are there.
    pub fn is_ready(&self, row: usize, units: usize) -> bool {
        self.list.iter().all(|plane| plane.last_row_for(row) < units * plane.down * plane.edge)
    }

    /// A component's samples for a row of the output, one for each of the columns.
    #[inline(always)]
    pub fn expand(&mut self, component: usize, row: usize) {
        self.list[component].make(row, &self.columns);
    }

    /// What [`Planes::expand`] made.
    #[inline(always)]
    pub fn expanded(&self, component: usize, row: usize) -> &[u8] {
        self.list[component].made(row, &self.columns)
    }
}

impl Expand {
    fn of(
        (out_across, across, out_down, down): (usize, usize, usize, usize),
        is_smooth: bool,
        width: usize,
    ) -> Result<Self, Error> {
        let is_wide = width > 2;
        Ok(match () {
            () if across == out_across && down == out_down => Self::Whole,
            () if across * 2 == out_across && down == out_down && is_smooth && is_wide => Self::Across,
            () if across == out_across && down * 2 == out_down && is_smooth => Self::Down,
            () if across * 2 == out_across && down * 2 == out_down && is_smooth && is_wide => Self::Both,
            () if out_across.is_multiple_of(across) && out_down.is_multiple_of(down) => {
                Self::Repeat(out_across / across, out_down / down)
            }
            () => return Err(Error::Unsupported("the samplings of its components don't go into each other")),
        })
    }

    /// The samples of a row that columns of the output are made of.
    fn columns(self, columns: &Range<usize>, width: usize) -> Range<usize> {
        match self {
            Self::Whole | Self::Down => columns.clone(),
            Self::Across | Self::Both => {
                (columns.start / 2).saturating_sub(1)..(columns.end.div_ceil(2) + 1).min(width)
            }
            Self::Repeat(across, _) => columns.start / across..columns.end.div_ceil(across),
        }
    }
}

impl Plane {
    /// Puts a block's samples in their place.
    #[inline(always)]
    pub fn put(&mut self, block_row: usize, block: usize, samples: &Samples) {
        let first = block_row * self.edge % self.rows;
        let column = 1 + (block - self.blocks.start) * self.edge;
        let rows = self.samples[first * self.stride..].chunks_exact_mut(self.stride);
        for (row, samples) in rows.zip(samples).take(self.edge) {
            if self.edge == 8 {
                row[column..column + 8].copy_from_slice(samples);
            } else {
                row[column..column + self.edge].copy_from_slice(&samples[..self.edge]);
            }
        }
    }

    /// Repeats the outermost samples of a row of blocks to the left and right of the image, for what looks there.
    #[inline(always)]
    pub fn extend(&mut self, block_row: usize) {
        let first = block_row * self.edge % self.rows;
        let last = self.width + 1 - (self.blocks.start * self.edge).min(self.width);
        for row in self.samples[first * self.stride..].chunks_exact_mut(self.stride).take(self.edge) {
            row[0] = row[1];
            if last < row.len() {
                row[last] = row[last - 1];
            }
        }
    }

    fn last_row_for(&self, row: usize) -> usize {
        match self.expand {
            Expand::Whole | Expand::Across => row,
            Expand::Down | Expand::Both => (row / 2 + row % 2).min(self.height - 1),
            Expand::Repeat(_, down) => row / down,
        }
    }

    /// A row of samples with one more at each end.
    #[inline(always)]
    fn row(&self, row: usize) -> &[u8] {
        let start = row % self.rows * self.stride;
        &self.samples[start..start + self.stride]
    }

    #[inline(always)]
    fn make(&mut self, row: usize, columns: &Range<usize>) {
        let (mut expanded, mut sums) = (std::mem::take(&mut self.expanded), std::mem::take(&mut self.sums));
        let base = self.blocks.start * self.edge;
        // The further row is the one before for the first of two rows, and the one behind for the second.
        let near = row / 2;
        let far = if row.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
        // With one sample more at each end; the row has one before the first, too.
        let halves = || columns.start / 2 - base..columns.end.div_ceil(2) - base + 2;
        match self.expand {
            Expand::Whole => {}
            Expand::Across => {
                let part = halves();
                expanded.resize((part.len() - 2) * 2, 0);
                across(&self.row(row)[part], &mut expanded);
            }
            Expand::Down => {
                let part = columns.start + 1 - base..columns.end + 1 - base;
                expanded.resize(part.len(), 0);
                down(&self.row(near)[part.clone()], &self.row(far)[part], row % 2 == 1, &mut expanded);
            }
            Expand::Both => {
                let part = halves();
                expanded.resize((part.len() - 2) * 2, 0);
                sums.resize(part.len(), 0);
                both(&self.row(near)[part.clone()], &self.row(far)[part], &mut sums, &mut expanded);
            }
            Expand::Repeat(across, down) => {
                let samples = self.row(row / down);
                expanded.clear();
                expanded.extend(columns.clone().map(|column| samples[1 + column / across - base]));
            }
        }
        (self.expanded, self.sums) = (expanded, sums);
    }

    #[inline(always)]
    fn made(&self, row: usize, columns: &Range<usize>) -> &[u8] {
        match self.expand {
            Expand::Whole => {
                let first = 1 + columns.start - self.blocks.start * self.edge;
                &self.row(row)[first..first + columns.len()]
            }
            Expand::Across | Expand::Both => &self.expanded[columns.start % 2..columns.start % 2 + columns.len()],
            Expand::Down | Expand::Repeat(..) => &self.expanded,
        }
    }
}

/// Samples with one more at each end become twice as many.
#[inline(always)]
fn across(samples: &[u8], expanded: &mut [u8]) {
    let neighbours = samples.iter().zip(&samples[1..]).zip(&samples[2..]);
    for (pair, ((before, sample), behind)) in expanded.as_chunks_mut::<2>().0.iter_mut().zip(neighbours) {
        let (before, sample, behind) = (u16::from(*before), u16::from(*sample), u16::from(*behind));
        *pair = [((3 * sample + before + 1) >> 2) as u8, ((3 * sample + behind + 2) >> 2) as u8];
    }
}

#[inline(always)]
fn down(near: &[u8], far: &[u8], is_second: bool, expanded: &mut [u8]) {
    let bias = if is_second { 2 } else { 1 };
    for (value, (near, far)) in expanded.iter_mut().zip(near.iter().zip(far)) {
        *value = ((3 * u16::from(*near) + u16::from(*far) + bias) >> 2) as u8;
    }
}

#[inline(always)]
fn both(near: &[u8], far: &[u8], sums: &mut [u16], expanded: &mut [u8]) {
    for (sum, (near, far)) in sums.iter_mut().zip(near.iter().zip(far)) {
        *sum = 3 * u16::from(*near) + u16::from(*far);
    }
    let neighbours = sums.iter().zip(&sums[1..]).zip(&sums[2..]);
    for (pair, ((before, sum), behind)) in expanded.as_chunks_mut::<2>().0.iter_mut().zip(neighbours) {
        *pair = [((3 * sum + before + 8) >> 4) as u8, ((3 * sum + behind + 7) >> 4) as u8];
    }
}
