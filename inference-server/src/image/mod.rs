//! From a file's bytes to the model's pixels.
//!
//! Decoding leaves 8-bit RGB of the model's size, a quarter of the memory of the model's input; the means and deviations are
//! applied by a table while the pixels are copied into the batch. Orientation tags are not applied, transparency is dropped:
//! that is what Pillow does and what the models were trained with.

pub mod resample;

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use self::resample::{Axis, resize_crop};
use crate::{
    engine::InferError,
    failure::{Failure, Reason},
    model::Signature,
    settings::Preset,
    tensor::DataType,
};

/// Larger images are refused before they are decoded. Fifty megapixels are 150 MB while a thread works on them.
pub const MAX_PIXELS: u64 = 50_000_000;
/// The size of an image where the model leaves it open.
const DEFAULT_SIZE: usize = 224;

/// RGB of the model's size, one byte a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels(pub Vec<u8>);

/// Why a file is no image for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It would take more memory than the server spends.
    #[error("it has {width} x {height} pixels, and at most {MAX_PIXELS} are decoded; send it smaller")]
    TooLarge {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// It is damaged or of another kind.
    #[error("it can't be decoded as JPEG, PNG or WebP: {0}")]
    Undecodable(String),
}

/// Turns files into the model's input.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    width: usize,
    height: usize,
    /// The size of the image's short side before the crop, in 224ths of the model's.
    short_side_224ths: usize,
    /// For each channel, the model's value of each byte.
    tables: [Vec<f32>; 3],
}

impl Preprocessor {
    /// The recipe of a preset for a model; none for the preset None.
    ///
    /// # Errors
    /// When the model has no input for images.
    pub fn new(preset: Preset, signature: &Signature) -> Result<Option<Self>, Failure> {
        let (short_side_224ths, mean, deviation) = match preset {
            Preset::None => return Ok(None),
            Preset::Clip => (224, [0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]),
            Preset::ImageNet => (256, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        };
        let [input] = signature.inputs.as_slice() else {
            return Err(no_image_input(&format!("it has {} inputs", signature.inputs.len())));
        };
        let [None | Some(1), Some(3), height, width] = *input.dims.as_slice() else {
            return Err(no_image_input(&format!("its input '{}' has the shape {:?}", input.name, input.wire_shape())));
        };
        if input.data_type != DataType::Fp32 {
            return Err(no_image_input(&format!("its input '{}' is {}", input.name, input.data_type.name())));
        }
        let table = |channel: usize| -> Vec<f32> {
            (0..=u8::MAX).map(|byte| (f32::from(byte) / 255.0 - mean[channel]) / deviation[channel]).collect()
        };
        Ok(Some(Self {
            width: width.unwrap_or(DEFAULT_SIZE),
            height: height.unwrap_or(DEFAULT_SIZE),
            short_side_224ths,
            tables: [table(0), table(1), table(2)],
        }))
    }

    /// Decodes, resizes and crops.
    ///
    /// # Errors
    /// When the file is no image that the server decodes.
    pub fn decode(&self, file: &[u8]) -> Result<Pixels, ImageError> {
        let undecodable = |error: &dyn std::fmt::Display| ImageError::Undecodable(error.to_string());
        let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| undecodable(&error))?;
        let mut decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS {
            return Err(ImageError::TooLarge { width, height });
        }
        if pixels == 0 {
            return Err(undecodable(&"it has no pixels"));
        }
        let mut limits = Limits::default();
        // Sixteen bits a channel and an alpha are 8 bytes a pixel; twice that leaves the decoder room to work.
        limits.max_alloc = Some(MAX_PIXELS * 16);
        decoder.set_limits(limits).map_err(|error| undecodable(&error))?;
        let rgb = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(&error))?.into_rgb8();
        let (width, height) = (width as usize, height as usize);
        let (horizontal, vertical) = self.axes(width, height);
        Ok(Pixels(resize_crop(rgb.as_raw(), horizontal, vertical)))
    }

    /// The short side goes to its size, the long one keeps the proportion, and the middle is kept.
    fn axes(&self, width: usize, height: usize) -> (Axis, Axis) {
        let short_side = self.width.max(self.height) * self.short_side_224ths / 224;
        let (new_width, new_height) = if width <= height {
            (short_side, short_side * height / width)
        } else {
            (short_side * width / height, short_side)
        };
        (
            Axis { input: width, output: new_width, offset: (new_width - self.width) / 2, length: self.width },
            Axis { input: height, output: new_height, offset: (new_height - self.height) / 2, length: self.height },
        )
    }

    /// Appends an image as the model's planes of red, green and blue.
    pub fn append(&self, pixels: &Pixels, values: &mut Vec<f32>) {
        for (channel, table) in self.tables.iter().enumerate() {
            values.extend(pixels.0.chunks_exact(3).map(|pixel| table[usize::from(pixel[channel])]));
        }
    }

    /// The input's shape for a number of images.
    pub fn shape(&self, rows: usize) -> Vec<usize> {
        vec![rows, 3, self.height, self.width]
    }
}

impl ImageError {
    /// The error of the request whose image this is.
    pub fn into_infer_error(self, place: usize) -> InferError {
        let message = format!("image {place}: {self}");
        match self {
            Self::TooLarge { .. } => InferError::TooLarge(message),
            Self::Undecodable(_) => InferError::Invalid(message),
        }
    }
}

fn no_image_input(problem: &str) -> Failure {
    Failure::new(
        Reason::SettingsInvalid,
        format!("the model can't take images: {problem}"),
        "set preprocessing to None, or serve a model with one FP32 input of shape [-1, 3, height, width]",
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::model::TensorSpec;

    fn preprocessor(preset: Preset) -> Preprocessor {
        Preprocessor::new(preset, &signature(&[None, Some(3), Some(32), Some(32)], DataType::Fp32)).unwrap().unwrap()
    }

    fn signature(dims: &[Option<usize>], data_type: DataType) -> Signature {
        let input = TensorSpec { name: "x".to_owned(), data_type, dims: dims.to_vec() };
        Signature { inputs: vec![input], outputs: vec![], platform: "test" }
    }

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
    }

    #[test]
    fn pixels_are_pillow_s_to_the_bit() {
        let lossless =
            ["wide.png", "high.png", "small.png", "same.png", "strip.png", "large.png", "gray.png", "alpha.png"];
        for file in lossless.iter().copied().chain(["lossless.webp"]) {
            for (preset, name) in [(Preset::Clip, "clip"), (Preset::ImageNet, "imagenet")] {
                let pixels = preprocessor(preset).decode(&fixture(file)).unwrap();
                let golden = fixture(&format!("{}.{name}.expected.png", file.split('.').next().unwrap()));
                let golden = image::load_from_memory(&golden).unwrap().into_rgb8().into_raw();
                assert_eq!(pixels.0, golden, "{file} for {name}");
            }
        }
    }

    /// JPEG leaves decoders some freedom: another decoder than Pillow's may differ by a level or two, not more.
    #[test]
    fn a_jpeg_s_pixels_are_close_to_pillow_s() {
        let pixels = preprocessor(Preset::Clip).decode(&fixture("photo.jpg")).unwrap();
        let golden = image::load_from_memory(&fixture("photo.clip.expected.png")).unwrap().into_rgb8().into_raw();
        let difference = pixels.0.iter().zip(&golden).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(difference <= 2, "the largest difference is {difference}");
    }

    #[test]
    fn values_are_planes_of_normalised_channels() {
        let clip = preprocessor(Preset::Clip);
        let mut values = vec![7.0];
        clip.append(&Pixels([255, 0, 128].repeat(32 * 32)), &mut values);
        assert_eq!(values.len(), 1 + 3 * 32 * 32);
        let expected = [
            (1.0 - 0.481_454_66) / 0.268_629_54,
            -0.457_827_5 / 0.261_302_58,
            (128.0 / 255.0 - 0.408_210_73) / 0.275_777_11,
        ];
        for (channel, expected) in expected.iter().enumerate() {
            let value: f64 = values[1 + channel * 32 * 32].into();
            assert!((value - expected).abs() < 1e-6, "channel {channel}: {value} for {expected}");
        }
        assert_eq!(clip.shape(2), [2, 3, 32, 32]);
    }

    #[test]
    fn damaged_huge_and_foreign_files_are_errors() {
        let clip = preprocessor(Preset::Clip);
        let photo = fixture("photo.jpg");
        for file in [&b""[..], b"hello", &photo[..200], &fixture("wide.png")[..40]] {
            assert!(matches!(clip.decode(file), Err(ImageError::Undecodable(_))), "{} bytes", file.len());
        }
        // The width in the PNG's header, with its checksum: a file of a few bytes that claims gigapixels.
        let mut bomb = fixture("wide.png");
        bomb[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&100_000_u32.to_be_bytes());
        let crc = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(clip.decode(&bomb), Err(ImageError::TooLarge { width: 100_000, height: 100_000 }));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc: u32, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }

    #[test]
    fn a_model_without_an_image_input_is_refused_with_its_shape() {
        assert!(Preprocessor::new(Preset::None, &signature(&[None], DataType::Int64)).unwrap().is_none());
        for (dims, data_type, part) in [
            (vec![None, Some(10)], DataType::Fp32, "shape [-1, 10]"),
            (vec![None, Some(224), Some(224), Some(3)], DataType::Fp32, "shape [-1, 224, 224, 3]"),
            (vec![Some(8), Some(3), Some(224), Some(224)], DataType::Fp32, "shape [8, 3, 224, 224]"),
            (vec![None, Some(3), None, None], DataType::Uint8, "is UINT8"),
        ] {
            let failure = Preprocessor::new(Preset::Clip, &signature(&dims, data_type)).unwrap_err();
            assert_eq!(failure.reason, Reason::SettingsInvalid);
            assert!(failure.message.contains(part), "{failure}");
        }
        let open = signature(&[None, Some(3), None, None], DataType::Fp32);
        assert_eq!(Preprocessor::new(Preset::Clip, &open).unwrap().unwrap().shape(1), [1, 3, 224, 224]);
    }
}
