//! Resampling with Pillow's arithmetic, to the bit: a model that was trained on what Pillow makes gets the same.
//!
//! Two passes, horizontal first, over 8-bit samples, each rounded and clipped to 0..=255; coefficients are 22-bit fixed point.
//! Rows are taken one by one as a decoder has them, and only those rows and columns that the crop keeps are computed: neither
//! changes a result, and no image is ever in memory as a whole.

use std::ops::Range;

use fearless_simd::{Level, Simd, dispatch, i16x16, i32x8, prelude::*, u8x16};

use super::taps::{Axis, LOW_BITS, PRECISION_BITS, Taps};

/// Half of the last kept place: what makes a shift round.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// How many samples are weighed at once.
const LANES: usize = 16;

/// Resizes one image after the other; its buffers are kept.
#[derive(Debug)]
pub struct Resampler {
    level: Level,
    columns: Taps,
    rows: Taps,
    planes: usize,
    /// The row at hand after the horizontal pass, plane after plane.
    narrow: Vec<u8>,
    /// The sums of the output rows that are begun and not finished, each at its number modulo `slots`.
    sums: Vec<i32>,
    slots: usize,
    finished: Vec<u8>,
    next_input: usize,
    next_output: usize,
}

impl Default for Resampler {
    fn default() -> Self {
        Self {
            level: Level::new(),
            columns: Taps::default(),
            rows: Taps::default(),
            planes: 0,
            narrow: vec![],
            sums: vec![],
            slots: 0,
            finished: vec![],
            next_input: 0,
            next_output: 0,
        }
    }
}

impl Resampler {
    /// Begins an image of a number of planes.
    pub fn begin(&mut self, horizontal: Axis, vertical: Axis, planes: usize) {
        self.columns.prepare(horizontal, LANES);
        self.rows.prepare(vertical, 1);
        self.planes = planes;
        self.slots = self.rows.most_at_once();
        let width = planes * horizontal.length;
        self.narrow.resize(width, 0);
        self.finished.resize(width, 0);
        self.sums.clear();
        self.sums.resize(self.slots * width, 0);
        self.next_input = self.rows.span().start;
        self.next_output = 0;
    }

    /// The columns of the input that matter.
    pub fn columns(&self) -> Range<usize> {
        self.columns.span()
    }

    /// The rows of the input that matter, in their order.
    pub fn rows(&self) -> Range<usize> {
        self.rows.span()
    }

    /// Takes the next row of `rows`: for each plane the samples of `columns`, at least. `finish` gets each row of the output as
    /// it is done, plane after plane.
    pub fn push(&mut self, row: &[&[u8]], mut finish: impl FnMut(usize, &[u8])) {
        let width = self.columns.len();
        match *row {
            [gray] => dispatch!(self.level, simd => horizontal(simd, [gray], &self.columns, &mut self.narrow, width)),
            [red, green, blue] => {
                dispatch!(self.level, simd => horizontal(simd, [red, green, blue], &self.columns, &mut self.narrow, width));
            }
            _ => return,
        }
        let stride = width * self.planes;
        let input = self.next_input;
        self.next_input += 1;
        for output in self.next_output..self.rows.len() {
            let (first, weights) = self.rows.of(output);
            let Some(place) = input.checked_sub(first) else { break };
            let slot = output % self.slots * stride;
            let sums = &mut self.sums[slot..slot + stride];
            if place == 0 {
                sums.fill(HALF);
            }
            if let Some(weight) = weights.get(place) {
                dispatch!(self.level, _simd => accumulate(sums, &self.narrow, *weight));
            }
            if place + 1 == weights.len() {
                dispatch!(self.level, _simd => clip_all(sums, &mut self.finished));
                finish(output, &self.finished);
                self.next_output = output + 1;
            }
        }
    }
}

/// The horizontal pass of one row.
#[inline(always)]
fn horizontal<S: Simd, const N: usize>(simd: S, row: [&[u8]; N], columns: &Taps, narrow: &mut [u8], width: usize) {
    let start = columns.span().start;
    for (position, (first, weights)) in columns.split().enumerate() {
        let sums = weigh(simd, &row, first - start, weights);
        for plane in 0..N {
            narrow[plane * width + position] = clip(sums[plane]);
        }
    }
}

/// The weighted sums of samples. The products of 16 bits are added in pairs, high and low parts of the weights apart.
///
/// Vectors go through loops and not through closures, which would be compiled without the processor's instructions for them.
#[inline(always)]
fn weigh<S: Simd, const N: usize>(simd: S, row: &[&[u8]; N], first: usize, (high, low): (&[i16], &[i16])) -> [i32; N] {
    let whole = high.len() / LANES * LANES;
    let mut high_sums = [i32x8::splat(simd, 0); N];
    let mut low_sums = [i32x8::splat(simd, 0); N];
    let mut at = 0;
    while at < whole {
        let high = i16x16::from_slice(simd, &high[at..at + LANES]);
        let low = i16x16::from_slice(simd, &low[at..at + LANES]);
        for plane in 0..N {
            let (left, right) = u8x16::from_slice(simd, &row[plane][first + at..first + at + LANES]).widen();
            let samples: i16x16<S> = left.combine(right).bitcast();
            high_sums[plane] += samples.pairwise_dot_product(high);
            low_sums[plane] += samples.pairwise_dot_product(low);
        }
        at += LANES;
    }
    let mut sums = [HALF; N];
    for plane in 0..N {
        let both = (high_sums[plane] << LOW_BITS) + low_sums[plane];
        sums[plane] = sums[plane].wrapping_add(both.reduce_sum());
        for at in whole..high.len() {
            let weight = (i32::from(high[at]) << LOW_BITS) + i32::from(low[at]);
            sums[plane] = sums[plane].wrapping_add(i32::from(row[plane][first + at]) * weight);
        }
    }
    sums
}

/// A row's part in an output row.
#[inline(always)]
fn accumulate(sums: &mut [i32], narrow: &[u8], weight: i32) {
    for (sum, value) in sums.iter_mut().zip(narrow) {
        *sum += i32::from(*value) * weight;
    }
}

#[inline(always)]
fn clip_all(sums: &[i32], values: &mut [u8]) {
    for (value, sum) in values.iter_mut().zip(sums) {
        *value = clip(*sum);
    }
}

#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "it is clamped to a byte's range")]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::taps::Filter;

    fn axis(size: usize, output: usize, offset: usize, length: usize) -> Axis {
        Axis { filter: Filter::Bicubic, size, reduction: 1, output, offset, length }
    }

    fn resize(rgb: &[u8], horizontal: Axis, vertical: Axis) -> Vec<u8> {
        let mut resampler = Resampler::default();
        resampler.begin(horizontal, vertical, 3);
        let columns = resampler.columns();
        let mut result = vec![];
        for row in rgb.chunks_exact(horizontal.size * 3).skip(resampler.rows().start).take(resampler.rows().len()) {
            let planes: Vec<Vec<u8>> = (0..3).map(|p| row.iter().skip(p).step_by(3).copied().collect()).collect();
            let planes: Vec<&[u8]> = planes.iter().map(|plane| &plane[columns.clone()]).collect();
            resampler.push(&planes, |output, values| {
                assert_eq!(output * horizontal.length * 3, result.len());
                for position in 0..horizontal.length {
                    result.extend((0..3).map(|plane| values[plane * horizontal.length + position]));
                }
            });
        }
        result
    }

    #[test]
    fn the_same_size_is_the_same_image() {
        let rgb: Vec<u8> = (0..27).collect();
        let whole = axis(3, 3, 0, 3);
        assert_eq!(resize(&rgb, whole, whole), rgb);
        let middle = axis(3, 3, 1, 1);
        assert_eq!(resize(&rgb, middle, middle), [12, 13, 14]);
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let rgb = [10, 200, 30].repeat(7 * 5);
        assert_eq!(resize(&rgb, axis(7, 3, 0, 3), axis(5, 11, 0, 11)), [10, 200, 30].repeat(33));
    }

    #[test]
    fn a_crop_is_a_part_of_the_whole() {
        let rgb: Vec<u8> = (0..40 * 30 * 3).map(|index: u32| (index * 7 % 251) as u8).collect();
        let whole = resize(&rgb, axis(40, 13, 0, 13), axis(30, 10, 0, 10));
        let part = resize(&rgb, axis(40, 13, 2, 8), axis(30, 10, 1, 8));
        for row in 0..8 {
            let start = ((row + 1) * 13 + 2) * 3;
            assert_eq!(part[row * 24..(row + 1) * 24], whole[start..start + 24], "row {row}");
        }
    }
}
