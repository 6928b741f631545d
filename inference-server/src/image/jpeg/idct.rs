//! From coefficients to samples: the inverse cosine transform of libjpeg's "slow integer" method, to the bit, whole and reduced.
//!
//! Its constants are multiplied out, so that each sum of products is a few pairwise ones on 16 bits; that changes no result, as
//! all sums are of integers. Intermediate values are kept in 16 bits, as in libjpeg-turbo: enough for what an encoder makes.

use std::num::Wrapping;

use fearless_simd::{Simd, i16x8, i16x16, i32x8, prelude::*, u8x16};

/// One component's coefficients in a block, or their quantisers, row by row.
pub type Block = [i16; 64];

/// The samples of a block as 8 rows of 8.
pub type Samples = [[u8; 8]; 8];

const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;

/// All coefficients but the first are zero: one value.
#[inline(always)]
pub fn flat(first: i16, quantizer: i16) -> u8 {
    let value = i32::from(first.wrapping_mul(quantizer));
    (((value + 4) >> 3) + 128).clamp(0, 255) as u8
}

/// All 8 x 8 samples.
#[inline(always)]
pub fn whole<S: Simd>(simd: S, block: &Block, quantizers: &Block) -> Samples {
    let row = |index: usize| {
        let coefficients = i16x8::from_slice(simd, &block[index * 8..index * 8 + 8]);
        coefficients * i16x8::from_slice(simd, &quantizers[index * 8..index * 8 + 8])
    };
    let columns = pass::<S, { CONST_BITS - PASS1_BITS }>(simd, std::array::from_fn(row));
    let rows = pass::<S, { CONST_BITS + PASS1_BITS + 3 }>(simd, transposed(simd, columns));
    samples(simd, rows)
}

/// One dimension of the transform on eight lines side by side.
#[inline(always)]
fn pass<S: Simd, const SHIFT: u32>(simd: S, line: [i16x8<S>; 8]) -> [i16x8<S>; 8] {
    let pair = |a: i16x8<S>, b: i16x8<S>| -> i16x16<S> { a.zip_low(b).combine(a.zip_high(b)) };
    let times = |pair: i16x16<S>, a: i16, b: i16| -> i32x8<S> {
        let both = i32::from(a) & 0xffff | i32::from(b) << 16;
        let factors: i16x16<S> = i32x8::splat(simd, both).bitcast();
        pair.pairwise_dot_product(factors)
    };
    let [p04, p26] = [pair(line[0], line[4]), pair(line[2], line[6])];
    let [p13, p57] = [pair(line[1], line[3]), pair(line[5], line[7])];

    let half = i32x8::splat(simd, 1 << (SHIFT - 1));
    let sum = times(p04, 1 << CONST_BITS, 1 << CONST_BITS) + half;
    let difference = times(p04, 1 << CONST_BITS, -(1 << CONST_BITS)) + half;
    let (inner, outer) = (times(p26, 4433, -10704), times(p26, 10703, 4433));
    let even = [sum + outer, difference + inner, difference - inner, sum - outer];
    let odd = [
        times(p13, 11363, 9633) + times(p57, 6437, 2260),
        times(p13, 9633, -2259) + times(p57, -11362, -6436),
        times(p13, 6437, -11362) + times(p57, 2261, 9633),
        times(p13, 2260, -6436) + times(p57, 9633, -11363),
    ];
    let narrow = |a: i32x8<S>, b: i32x8<S>| (a >> SHIFT).saturating_narrow(b >> SHIFT).split();
    let (out0, out7) = narrow(even[0] + odd[0], even[0] - odd[0]);
    let (out1, out6) = narrow(even[1] + odd[1], even[1] - odd[1]);
    let (out2, out5) = narrow(even[2] + odd[2], even[2] - odd[2]);
    let (out3, out4) = narrow(even[3] + odd[3], even[3] - odd[3]);
    [out0, out1, out2, out3, out4, out5, out6, out7]
}

/// Rows become columns.
#[inline(always)]
fn transposed<S: Simd>(_simd: S, rows: [i16x8<S>; 8]) -> [i16x8<S>; 8] {
    // Like a perfect shuffle, three times.
    let shuffled = |rows: [i16x8<S>; 8]| -> [i16x8<S>; 8] {
        std::array::from_fn(|place| {
            let (first, second) = (rows[place / 2], rows[place / 2 + 4]);
            if place % 2 == 0 { first.zip_low(second) } else { first.zip_high(second) }
        })
    };
    shuffled(shuffled(shuffled(rows)))
}

/// The last pass's columns as rows of bytes.
#[inline(always)]
fn samples<S: Simd>(simd: S, columns: [i16x8<S>; 8]) -> Samples {
    let middle = u8x16::splat(simd, 128);
    // Two columns each, side by side: 0 and 1, 2 and 3, 4 and 5, 6 and 7.
    let pairs: [u8x16<S>; 4] = std::array::from_fn(|pair| {
        columns[pair * 2].saturating_narrow(columns[pair * 2 + 1]).bitcast::<u8x16<S>>() ^ middle
    });
    let even = (pairs[0].zip_low(pairs[2]), pairs[1].zip_low(pairs[3]));
    let odd = (pairs[0].zip_high(pairs[2]), pairs[1].zip_high(pairs[3]));
    let upper = (even.0.zip_low(even.1), odd.0.zip_low(odd.1));
    let lower = (even.0.zip_high(even.1), odd.0.zip_high(odd.1));
    let quarters =
        [upper.0.zip_low(upper.1), upper.0.zip_high(upper.1), lower.0.zip_low(lower.1), lower.0.zip_high(lower.1)];
    let mut result = [[0; 8]; 8];
    for (rows, quarter) in result.as_chunks_mut::<2>().0.iter_mut().zip(quarters) {
        quarter.store_slice(rows.as_flattened_mut());
    }
    result
}

/// 4 x 4 samples in the upper left, from the same coefficients.
///
/// Loops and no closures, here and below, which would be compiled without the processor's vectors.
#[expect(clippy::needless_range_loop, reason = "all columns of a row side by side")]
#[inline(always)]
pub fn half(block: &Block, quantizers: &Block) -> Samples {
    let mut columns = [[Wrapping(0); 8]; 4];
    for index in 0..8 {
        let c = |row: usize| dequantized(block, quantizers, row, index);
        let line = half_line([c(0), c(1), c(2), c(3), c(5), c(6), c(7)]);
        for place in 0..4 {
            columns[place][index] = kept(rounded(line[place], CONST_BITS - PASS1_BITS + 1));
        }
    }
    let mut result = [[0; 8]; 8];
    for row in 0..4 {
        let c = &columns[row];
        let line = half_line([c[0], c[1], c[2], c[3], c[5], c[6], c[7]]);
        for place in 0..4 {
            result[row][place] = sample(rounded(line[place], CONST_BITS + PASS1_BITS + 4));
        }
    }
    result
}

#[inline(always)]
fn half_line([c0, c1, c2, c3, c5, c6, c7]: [Wrapping<i32>; 7]) -> [Wrapping<i32>; 4] {
    let base = c0 << (CONST_BITS as usize + 1);
    let even = times(c2, 15137) - times(c6, 6270);
    let odd = times(c5, 11893) - times(c7, 1730) - times(c3, 17799) + times(c1, 8697);
    let outer = times(c3, 7373) - times(c7, 4176) - times(c5, 4926) + times(c1, 20995);
    [base + even + outer, base - even + odd, base - even - odd, base + even - outer]
}

/// 2 x 2 samples in the upper left.
#[expect(clippy::needless_range_loop, reason = "all columns of a row side by side")]
#[inline(always)]
pub fn quarter(block: &Block, quantizers: &Block) -> Samples {
    let mut columns = [[Wrapping(0); 8]; 2];
    // Those of 2, 4 and 6 are not looked at, but a vector has room for them.
    for index in 0..8 {
        let c = |row: usize| dequantized(block, quantizers, row, index);
        let line = quarter_line([c(0), c(1), c(3), c(5), c(7)]);
        for place in 0..2 {
            columns[place][index] = kept(rounded(line[place], CONST_BITS - PASS1_BITS + 2));
        }
    }
    let mut result = [[0; 8]; 8];
    for row in 0..2 {
        let c = &columns[row];
        let line = quarter_line([c[0], c[1], c[3], c[5], c[7]]);
        for place in 0..2 {
            result[row][place] = sample(rounded(line[place], CONST_BITS + PASS1_BITS + 5));
        }
    }
    result
}

#[inline(always)]
fn quarter_line([c0, c1, c3, c5, c7]: [Wrapping<i32>; 5]) -> [Wrapping<i32>; 2] {
    let odd = times(c1, 29692) - times(c3, 10426) + times(c5, 6967) - times(c7, 5906);
    let even = c0 << (CONST_BITS as usize + 2);
    [even + odd, even - odd]
}

#[inline(always)]
fn dequantized(block: &Block, quantizers: &Block, row: usize, column: usize) -> Wrapping<i32> {
    let place = row * 8 + column;
    Wrapping(i32::from(block[place].wrapping_mul(quantizers[place])))
}

#[inline(always)]
fn times(value: Wrapping<i32>, factor: i32) -> Wrapping<i32> {
    value * Wrapping(factor)
}

#[inline(always)]
fn rounded(sum: Wrapping<i32>, shift: u32) -> i32 {
    (sum + Wrapping(1 << (shift - 1))).0 >> shift
}

/// Kept in 16 bits between the passes.
#[inline(always)]
fn kept(value: i32) -> Wrapping<i32> {
    Wrapping(value.clamp(i16::MIN.into(), i16::MAX.into()))
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    (value + 128).clamp(0, 255) as u8
}
