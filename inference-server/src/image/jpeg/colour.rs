//! From a JPEG's components to red, green and blue: libjpeg's integers, and for inks Pillow's.

/// What is added before the lower half of 32 bits is dropped.
const HALF: i32 = 1 << 15;

/// Luma and chromas to red, green and blue.
#[inline(always)]
pub fn ycc_to_rgb(luma: &[u8], blue: &[u8], red: &[u8], out: &mut [Vec<u8>; 3]) {
    let [out_red, out_green, out_blue] = out;
    for channel in [&mut *out_red, &mut *out_green, &mut *out_blue] {
        channel.resize(luma.len(), 0);
    }
    let outs = out_red.iter_mut().zip(out_green.iter_mut()).zip(out_blue.iter_mut());
    for (((r, g), b), ((y, cb), cr)) in outs.zip(luma.iter().zip(blue).zip(red)) {
        let (y, cb, cr) = (i32::from(*y), i32::from(*cb) - 128, i32::from(*cr) - 128);
        *r = byte(y + ((91_881 * cr + HALF) >> 16));
        *g = byte(y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16));
        *b = byte(y + ((116_130 * cb + HALF) >> 16));
    }
}

/// Takes the black ink, stored inverted, out of red, green and blue, which are the other inks stored inverted.
#[inline(always)]
pub fn blacken(black: &[u8], out: &mut [Vec<u8>; 3]) {
    for channel in out {
        for (value, black) in channel.iter_mut().zip(black) {
            let product = (255 - i32::from(*value)) * i32::from(*black) + 128;
            *value = byte(i32::from(*black) - ((product + (product >> 8)) >> 8));
        }
    }
}

#[inline(always)]
fn byte(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}
