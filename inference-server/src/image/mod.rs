//! From a file's bytes to the model's pixels.
//!
//! Decoding leaves 8-bit RGB of the model's size, a quarter of the memory of the model's input; the means and deviations are
//! applied by a table while the pixels are copied into the batch. Orientation tags are not applied, transparency is dropped:
//! that is what Pillow does and what the models were trained with.

#![expect(
    clippy::inline_always,
    reason = "what a dispatch to the processor's vector instructions calls has to be inlined there"
)]

mod jpeg;
mod resample;
mod taps;

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use self::{
    jpeg::{Jpeg, Reduction},
    resample::Resampler,
    taps::{Axis, Filter},
};
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

/// What decoding needs besides the file: one for each thread that decodes, kept from image to image.
#[derive(Debug, Default)]
pub struct Scratch {
    resampler: Resampler,
    jpeg: jpeg::Buffers,
    planes: [Vec<u8>; 3],
}

/// Why a file is no image for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It would take more memory than the server spends.
    #[error("it has {width} x {height} pixels, and at most {MAX_PIXELS} are decoded; send it smaller")]
    TooLarge {
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
    },
    /// It is no JPEG file that can be decoded.
    #[error("it can't be decoded as JPEG: {0}")]
    Jpeg(#[from] jpeg::Error),
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
        let mut pixels = vec![0; self.values()];
        let area = self.width * self.height;
        self.rows_into(file, &mut Scratch::default(), |row, values| {
            for (plane, values) in values.chunks_exact(self.width).enumerate() {
                for (column, value) in values.iter().enumerate() {
                    pixels[(row * self.width + column) * 3 + plane] = *value;
                }
            }
        })?;
        debug_assert_eq!(pixels.len(), area * 3);
        Ok(Pixels(pixels))
    }

    /// Decodes a file into the model's input: planes of red, green and blue, normalised. `out` is as long as
    /// [`Preprocessor::values`] says; after an error it holds anything.
    ///
    /// # Errors
    /// When the file is no image that the server decodes.
    pub fn decode_into(&self, file: &[u8], scratch: &mut Scratch, out: &mut [f32]) -> Result<(), ImageError> {
        let area = self.width * self.height;
        self.rows_into(file, scratch, |row, values| {
            for (plane, values) in values.chunks_exact(self.width).enumerate() {
                let start = plane * area + row * self.width;
                let table = &self.tables[plane];
                for (out, value) in out[start..start + self.width].iter_mut().zip(values) {
                    *out = table[usize::from(*value)];
                }
            }
        })
    }

    /// How many values an image is in the model's input.
    pub fn values(&self) -> usize {
        3 * self.width * self.height
    }

    /// Decodes a file and gives each row of the model's size, plane after plane.
    fn rows_into(
        &self,
        file: &[u8],
        scratch: &mut Scratch,
        mut finish: impl FnMut(usize, &[u8]),
    ) -> Result<(), ImageError> {
        if file.starts_with(&[0xff, 0xd8]) {
            return self.jpeg_rows_into(file, scratch, finish);
        }
        let undecodable = |error: &dyn std::fmt::Display| ImageError::Undecodable(error.to_string());
        let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| undecodable(&error))?;
        let mut decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS {
            return Err(ImageError::TooLarge { width: width as usize, height: height as usize });
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
        scratch.resampler.begin(horizontal, vertical, 3);
        let (columns, rows) = (scratch.resampler.columns(), scratch.resampler.rows());
        for row in rgb.as_raw().chunks_exact(width * 3).skip(rows.start).take(rows.len()) {
            let pixels = &row.as_chunks::<3>().0[columns.clone()];
            for (plane, samples) in scratch.planes.iter_mut().enumerate() {
                samples.clear();
                samples.extend(pixels.iter().map(|pixel| pixel[plane]));
            }
            let planes = scratch.planes.each_ref().map(Vec::as_slice);
            scratch.resampler.push(&planes, &mut finish);
        }
        Ok(())
    }

    fn jpeg_rows_into(
        &self,
        file: &[u8],
        scratch: &mut Scratch,
        mut finish: impl FnMut(usize, &[u8]),
    ) -> Result<(), ImageError> {
        let jpeg = Jpeg::open(file)?;
        let (width, height) = jpeg.size();
        if (width * height) as u64 > MAX_PIXELS {
            return Err(ImageError::TooLarge { width, height });
        }
        let (horizontal, vertical) = self.axes(width, height);
        let planes = jpeg.planes();
        let Scratch { resampler, jpeg: buffers, .. } = scratch;
        resampler.begin(horizontal, vertical, planes);
        let wanted = (resampler.columns(), resampler.rows());
        jpeg.decode(Reduction::None, wanted, buffers, &mut |row| {
            resampler.push(row, |output, values| match planes {
                1 => finish(output, &values.repeat(3)),
                _ => finish(output, values),
            });
        })?;
        Ok(())
    }

    /// The short side goes to its size, the long one keeps the proportion, and the middle is kept.
    fn axes(&self, width: usize, height: usize) -> (Axis, Axis) {
        let short_side = self.width.max(self.height) * self.short_side_224ths / 224;
        let (new_width, new_height) = if width <= height {
            (short_side, short_side * height / width)
        } else {
            (short_side * width / height, short_side)
        };
        let axis = |size: usize, output: usize, length: usize| Axis {
            filter: Filter::Bicubic,
            size,
            reduction: 1,
            output,
            offset: (output - length) / 2,
            length,
        };
        (axis(width, new_width, self.width), axis(height, new_height, self.height))
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
            Self::Jpeg(_) | Self::Undecodable(_) => InferError::Invalid(message),
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
        for file in lossless.iter().copied().chain(["lossless.webp", "photo.jpg"]) {
            for (preset, name) in [(Preset::Clip, "clip"), (Preset::ImageNet, "imagenet")] {
                let pixels = preprocessor(preset).decode(&fixture(file)).unwrap();
                let golden = fixture(&format!("{}.{name}.expected.png", file.split('.').next().unwrap()));
                let golden = image::load_from_memory(&golden).unwrap().into_rgb8().into_raw();
                assert_eq!(pixels.0, golden, "{file} for {name}");
            }
        }
    }

    #[test]
    fn the_batch_s_memory_gets_what_pixels_become() {
        let clip = preprocessor(Preset::Clip);
        let mut scratch = Scratch::default();
        for file in ["photo.jpg", "wide.png", "gray.png", "photo.jpg"] {
            let mut expected = vec![];
            clip.append(&clip.decode(&fixture(file)).unwrap(), &mut expected);
            let mut values = vec![f32::NAN; clip.values()];
            clip.decode_into(&fixture(file), &mut scratch, &mut values).unwrap();
            assert_eq!(values, expected, "{file}");
        }
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
            let error = clip.decode(file).unwrap_err();
            assert!(matches!(error, ImageError::Undecodable(_) | ImageError::Jpeg(_)), "{} bytes: {error}", file.len());
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
