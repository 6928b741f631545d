//! What an operator may choose about images: the section `model.preprocessing` of the settings.

use serde::Deserialize;

pub use super::taps::Filter;

/// What an image in a request becomes before the model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Preprocessing {
    /// The recipe; what is absent below is its.
    pub preset: Preset,
    /// Whether the camera's orientation is applied.
    pub orientation: Orientation,
    /// How large photos are decoded.
    pub decoder: Decoder,
    /// How an image of other proportions becomes the model's.
    pub fit: Option<Fit>,
    /// The short side in pixels before the crop.
    pub short_side: Option<usize>,
    /// What weighs pixels in resizing.
    pub filter: Option<Filter>,
    /// What is subtracted from red, green and blue, which go from 0 to 1.
    pub mean: Option<[f32; 3]>,
    /// What they are divided by then.
    pub standard_deviation: Option<[f32; 3]>,
    /// Images of more pixels are refused.
    pub max_pixels: usize,
    /// Images of more pixels for each byte are refused, above one megapixel.
    pub max_pixels_per_byte: usize,
}

impl Default for Preprocessing {
    fn default() -> Self {
        Self {
            preset: Preset::None,
            orientation: Orientation::Ignore,
            decoder: Decoder::Exact,
            fit: None,
            short_side: None,
            filter: None,
            mean: None,
            standard_deviation: None,
            max_pixels: 50_000_000,
            max_pixels_per_byte: 512,
        }
    }
}

/// JSON has no number that differs from itself.
impl Eq for Preprocessing {}

impl From<Preset> for Preprocessing {
    fn from(preset: Preset) -> Self {
        Self { preset, ..Self::default() }
    }
}

/// A named recipe from image to tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Preset {
    /// No images: tensors only.
    #[default]
    None,
    /// Bicubic resize of the short side to the model's size, centre crop, CLIP's mean and deviation.
    Clip,
    /// Bicubic resize of the short side to 256/224 of the model's size, centre crop, `ImageNet`'s mean and deviation.
    ImageNet,
}

/// What becomes of the camera's note on how it was held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Orientation {
    /// Nothing, as in the pipelines that models were trained with.
    #[default]
    Ignore,
    /// The image is turned upright.
    Apply,
}

/// How large photos are decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Decoder {
    /// Whole: the pixels are Pillow's.
    #[default]
    Exact,
    /// JPEG files at a half, a quarter or an eighth of their size, if the short side stays at least twice as long as it has to
    /// become: the pixels are those of Pillow's `draft`.
    Scaled,
}

/// How an image of other proportions than the model's becomes the model's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Fit {
    /// The short side fits, and the middle of the long one is kept.
    #[default]
    Crop,
    /// Both sides fit, whatever becomes of the proportions.
    Stretch,
}
