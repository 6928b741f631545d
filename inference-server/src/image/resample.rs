//! Bicubic resampling with Pillow's arithmetic, to the bit: a model that was trained on what Pillow makes gets the same.
//!
//! Two passes, horizontal first, over 8-bit pixels, each rounded and clipped to 0..=255; the kernel is Catmull-Rom's (a = -0.5),
//! widened by the scale when the image shrinks; coefficients are 22-bit fixed point. Only the columns and rows that the crop
//! keeps are computed, which changes no result.

/// Pillow's precision: 32 bits less 8 for the pixel and 2 for the kernel's overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The taps of one output position: the first input position, and a weight for each from there on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Part of one axis of a resized image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// The size before.
    pub input: usize,
    /// The size after.
    pub output: usize,
    /// The first position of the output that is wanted.
    pub offset: usize,
    /// How many positions are wanted.
    pub length: usize,
}

/// Resizes an RGB image and returns the wanted part of the result.
pub fn resize_crop(rgb: &[u8], horizontal: Axis, vertical: Axis) -> Vec<u8> {
    let columns = taps(horizontal);
    let rows = taps(vertical);
    // The rows that the vertical pass reads, no others, go through the horizontal one.
    let first_row = rows.first().map_or(0, |row| row.first);
    let last_row = rows.iter().map(|row| row.first + row.weights.len()).max().unwrap_or(0);

    let mut narrow = Vec::with_capacity((last_row - first_row) * columns.len() * 3);
    for row in rgb.chunks_exact(horizontal.input * 3).skip(first_row).take(last_row - first_row) {
        let pixels = row.as_chunks::<3>().0;
        for column in &columns {
            narrow.extend(weigh(&pixels[column.first..], &column.weights));
        }
    }

    let stride = columns.len() * 3;
    let mut result = Vec::with_capacity(rows.len() * stride);
    let mut sums = vec![0_i32; stride];
    for row in &rows {
        sums.fill(1 << (PRECISION_BITS - 1));
        let lines = narrow[(row.first - first_row) * stride..].chunks_exact(stride);
        // Line by line and not pixel by pixel: so the compiler can add many values at once.
        for (line, weight) in lines.zip(&row.weights) {
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum += i32::from(*value) * weight;
            }
        }
        result.extend(sums.iter().map(|sum| clip(*sum)));
    }
    result
}

/// The weighted sum of pixels.
fn weigh(pixels: &[[u8; 3]], weights: &[i32]) -> [u8; 3] {
    let mut sums = [1_i32 << (PRECISION_BITS - 1); 3];
    for (pixel, weight) in pixels.iter().zip(weights) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += i32::from(*value) * weight;
        }
    }
    sums.map(clip)
}

fn clip(sum: i32) -> u8 {
    u8::try_from((sum >> PRECISION_BITS).clamp(0, 255)).unwrap_or(u8::MAX)
}

/// The taps of the wanted positions of an axis.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "positions are far below 2^52 and are kept inside the image; Pillow truncates in the same places"
)]
fn taps(axis: Axis) -> Vec<Taps> {
    let scale = axis.input as f64 / axis.output as f64;
    if axis.input == axis.output {
        // Pillow leaves such a pass out; one whole tap does the same.
        return (axis.offset..axis.offset + axis.length)
            .map(|first| Taps { first, weights: vec![1 << PRECISION_BITS] })
            .collect();
    }
    let filter_scale = scale.max(1.0);
    let support = 2.0 * filter_scale;
    (axis.offset..axis.offset + axis.length)
        .map(|position| {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(axis.input);
            let weights: Vec<f64> =
                (first..end).map(|input| bicubic((input as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
            let sum: f64 = weights.iter().sum();
            let weights = weights
                .into_iter()
                .map(|weight| {
                    let scaled = if sum == 0.0 { weight } else { weight / sum } * f64::from(1_u32 << PRECISION_BITS);
                    (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
                })
                .collect();
            Taps { first, weights }
        })
        .collect()
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_is_the_same_image() {
        let rgb: Vec<u8> = (0..27).collect();
        let whole = Axis { input: 3, output: 3, offset: 0, length: 3 };
        assert_eq!(resize_crop(&rgb, whole, whole), rgb);
        let middle = Axis { input: 3, output: 3, offset: 1, length: 1 };
        assert_eq!(resize_crop(&rgb, middle, middle), [12, 13, 14]);
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let rgb = [10, 200, 30].repeat(7 * 5);
        let horizontal = Axis { input: 7, output: 3, offset: 0, length: 3 };
        let vertical = Axis { input: 5, output: 11, offset: 0, length: 11 };
        assert_eq!(resize_crop(&rgb, horizontal, vertical), [10, 200, 30].repeat(33));
    }

    #[test]
    fn a_crop_is_a_part_of_the_whole() {
        let rgb: Vec<u8> = (0..40 * 30 * 3).map(|index: u32| (index * 7 % 251) as u8).collect();
        let (wide, high) = (
            Axis { input: 40, output: 13, offset: 0, length: 13 },
            Axis { input: 30, output: 10, offset: 0, length: 10 },
        );
        let whole = resize_crop(&rgb, wide, high);
        let part = resize_crop(&rgb, Axis { offset: 2, length: 8, ..wide }, Axis { offset: 1, length: 8, ..high });
        for row in 0..8 {
            let start = ((row + 1) * 13 + 2) * 3;
            assert_eq!(part[row * 24..(row + 1) * 24], whole[start..start + 24], "row {row}");
        }
    }
}
