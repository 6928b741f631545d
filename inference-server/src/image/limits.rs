//! What an image may cost, checked against what its header claims, before anything is decoded.

use super::ImageError;

/// Images of no more pixels are decoded however few bytes they have: they cost little, and icons of one colour are as small.
const SMALL: usize = 1 << 20;
/// Longer edges are refused: a row is in memory as a whole.
pub const MAX_EDGE: usize = 65_535;

/// The most that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of an image.
    pub pixels: usize,
    /// Pixels for each byte of the file, of an image above a megapixel.
    pub pixels_per_byte: usize,
}

impl Limits {
    /// Whether a file of so many bytes may be an image of that size.
    ///
    /// # Errors
    /// When it would take more than the server spends, or has no pixels.
    pub fn check(self, bytes: usize, (width, height): (usize, usize)) -> Result<(), ImageError> {
        let pixels = width.saturating_mul(height);
        if pixels == 0 {
            return Err(ImageError::Undecodable("it has no pixels".to_owned()));
        }
        if pixels > self.pixels || width > MAX_EDGE || height > MAX_EDGE {
            return Err(ImageError::TooLarge { width, height, most: self.pixels });
        }
        if pixels > SMALL && pixels / self.pixels_per_byte >= bytes {
            return Err(ImageError::TooDense { width, height, bytes, most: self.pixels_per_byte });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_may_have_so_many_pixels_and_so_many_for_each_byte() {
        let limits = Limits { pixels: 50_000_000, pixels_per_byte: 512 };
        for (bytes, size, refusal) in [
            (300_000, (4000, 3000), ""),
            (10, (1024, 1024), ""),
            (10_000_000, (50_000, 1000), ""),
            (10_000_000, (50_001, 1000), "at most 50000000"),
            (10_000_000, (65_536, 1), "at most 50000000"),
            (10_000_000, (usize::MAX, usize::MAX), "at most 50000000"),
            (2051, (1025, 1024), ""),
            (2050, (1025, 1024), "at most 512"),
            (10, (0, 10), "no pixels"),
        ] {
            let result = limits.check(bytes, size);
            let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert!(result.is_ok() == refusal.is_empty() && text.contains(refusal), "{bytes} {size:?}: {text}");
        }
    }
}
