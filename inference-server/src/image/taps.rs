//! Which positions of an axis each resized position is made of, and with which weights: Pillow's coefficients, to the bit.

use std::ops::Range;

use serde::Deserialize;

/// Pillow's precision: 32 bits less 8 for the sample and 2 for the kernel's overshoot.
pub const PRECISION_BITS: u32 = 32 - 8 - 2;
/// How many bits the lower part of a split weight has.
pub const LOW_BITS: u32 = 9;

/// The kernel that weighs positions, by Pillow's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Filter {
    /// Linear interpolation.
    Bilinear,
    /// Catmull-Rom's cubic, a = -0.5.
    #[default]
    Bicubic,
    /// A windowed sinc over three lobes.
    Lanczos,
}

/// Part of one axis of a resized image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// What weighs the positions.
    pub filter: Filter,
    /// How many positions there are before.
    pub size: usize,
    /// What that was divided by when the image was decoded smaller, else 1. The last position may then be less than a whole one.
    pub reduction: usize,
    /// How many positions there are after.
    pub output: usize,
    /// The first position of the output that is wanted.
    pub offset: usize,
    /// How many positions are wanted.
    pub length: usize,
}

/// For each wanted position of an axis: the first position before, and a weight for each from there on.
#[derive(Debug, Default)]
pub struct Taps {
    axis: Option<Axis>,
    firsts: Vec<usize>,
    weights: Vec<i32>,
    /// The weights in two parts of 16 bits: `high << LOW_BITS` plus `low`.
    high: Vec<i16>,
    low: Vec<i16>,
    /// How many weights a position has.
    count: usize,
    span: Range<usize>,
}

#[expect(clippy::cast_possible_truncation, reason = "weights have 24 bits at most: the parts have 15 and 9")]
impl Taps {
    /// Computes them, unless they are of this axis already. Each position gets a multiple of `alignment` weights, zeros among
    /// them, if the axis is that long.
    pub fn prepare(&mut self, axis: Axis, alignment: usize) {
        if self.axis == Some(axis) {
            return;
        }
        self.axis = Some(axis);
        let exact: Vec<(usize, Vec<i32>)> = (axis.offset..axis.offset + axis.length).map(|at| taps(axis, at)).collect();
        let start = exact.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let end = exact.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0);
        self.span = start..end;
        let most = exact.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        self.count = most.next_multiple_of(alignment).min(end - start);
        self.firsts.clear();
        self.weights.clear();
        self.weights.resize(exact.len() * self.count, 0);
        for ((first, weights), padded) in exact.iter().zip(self.weights.chunks_exact_mut(self.count.max(1))) {
            // At the far edge the zeros go in front, for there is nothing behind to weigh with them.
            let from = (*first).min(end - self.count);
            self.firsts.push(from);
            padded[first - from..first - from + weights.len()].copy_from_slice(weights);
        }
        let half = 1 << (LOW_BITS - 1);
        self.high.clear();
        self.high.extend(self.weights.iter().map(|weight| ((weight + half) >> LOW_BITS) as i16));
        self.low.clear();
        self.low.extend(self.weights.iter().map(|weight| (((weight + half) & ((1 << LOW_BITS) - 1)) - half) as i16));
    }

    /// The number of wanted positions.
    pub fn len(&self) -> usize {
        self.firsts.len()
    }

    /// The positions before that matter to any.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The first position before and the weights of one.
    #[inline]
    pub fn of(&self, position: usize) -> (usize, &[i32]) {
        (self.firsts[position], &self.weights[position * self.count..(position + 1) * self.count])
    }

    /// The first position before, and both parts of the weights, of each in its order.
    #[inline]
    pub fn split(&self) -> impl Iterator<Item = (usize, (&[i16], &[i16]))> {
        let parts = self.high.chunks_exact(self.count.max(1)).zip(self.low.chunks_exact(self.count.max(1)));
        self.firsts.iter().copied().zip(parts)
    }

    /// To how many wanted positions one position before belongs, at most.
    pub fn most_at_once(&self) -> usize {
        let mut finished = 0;
        let mut most = 0;
        for (begun, first) in self.firsts.iter().enumerate() {
            while self.firsts[finished] + self.count <= *first {
                finished += 1;
            }
            most = most.max(begun + 1 - finished);
        }
        most
    }
}

/// The first position and the weights for one position of the output.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "positions are far below 2^52 and are kept inside the image; Pillow truncates in the same places"
)]
fn taps(axis: Axis, position: usize) -> (usize, Vec<i32>) {
    let input = axis.size.div_ceil(axis.reduction);
    if input == axis.output && axis.size == input * axis.reduction {
        // Pillow leaves such a pass out; one whole tap does the same.
        return (position, vec![1 << PRECISION_BITS]);
    }
    let scale = axis.size as f64 / axis.reduction as f64 / axis.output as f64;
    let filter_scale = scale.max(1.0);
    let support = axis.filter.support() * filter_scale;
    let center = (position as f64 + 0.5) * scale;
    let first = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(input);
    let weights: Vec<f64> =
        (first..end).map(|input| axis.filter.at((input as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
    let sum: f64 = weights.iter().sum();
    let weights = weights
        .into_iter()
        .map(|weight| {
            let scaled = if sum == 0.0 { weight } else { weight / sum } * f64::from(1_u32 << PRECISION_BITS);
            (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
        })
        .collect();
    (first, weights)
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        let distance = x.abs();
        match self {
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}
