//! A model's recipe: which pixels it gets from an image of any size, and as which numbers.

use super::{
    limits::Limits,
    options::{Decoder, Filter, Fit, Orientation, Preprocessing, Preset},
    taps::Axis,
};
use crate::{
    failure::{Failure, Reason},
    model::Signature,
    tensor::DataType,
};

/// The size of an image where the model leaves it open.
const DEFAULT_SIZE: usize = 224;

/// What is done to every image.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Columns of the model's input.
    pub width: usize,
    /// Rows of the model's input.
    pub height: usize,
    /// For each channel, the model's value of each byte.
    pub tables: [[f32; 256]; 3],
    /// Whether the camera's orientation is applied.
    pub is_turned: bool,
    /// Whether large JPEG files are decoded smaller.
    pub is_reduced: bool,
    /// What is refused.
    pub limits: Limits,
    fit: Fit,
    filter: Filter,
    short_side: usize,
}

impl Recipe {
    /// The recipe of the options for a model; none for the preset None.
    ///
    /// # Errors
    /// When the model has no input for images, or the options contradict it.
    pub fn new(options: &Preprocessing, signature: &Signature) -> Result<Option<Self>, Failure> {
        let (short_side_224ths, mean, deviation) = match options.preset {
            Preset::None => return Ok(None),
            Preset::Clip => (224, [0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]),
            Preset::ImageNet => (256, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        };
        let (width, height) = size(signature)?;
        let (mean, deviation) = (options.mean.unwrap_or(mean), options.standard_deviation.unwrap_or(deviation));
        let long_side = width.max(height);
        let short_side = options.short_side.unwrap_or(long_side * short_side_224ths / 224);
        if !(long_side..=16_384).contains(&short_side) {
            return Err(wrong("shortSide", &format!("must be {long_side} to 16384, not {short_side}")));
        }
        if !mean.iter().all(|mean| mean.is_finite()) || !deviation.iter().all(|deviation| deviation.is_normal()) {
            return Err(wrong("mean and standardDeviation", "must be numbers, and deviations not 0"));
        }
        if options.max_pixels == 0 || options.max_pixels > 1 << 28 || options.max_pixels_per_byte == 0 {
            return Err(wrong("maxPixels and maxPixelsPerByte", "must be at least 1, and maxPixels at most 268435456"));
        }
        let table = |channel: usize| -> [f32; 256] {
            let mut bytes = 0..=u8::MAX;
            [0.0; 256].map(|none| {
                bytes.next().map_or(none, |byte| (f32::from(byte) / 255.0 - mean[channel]) / deviation[channel])
            })
        };
        Ok(Some(Self {
            width,
            height,
            tables: [table(0), table(1), table(2)],
            is_turned: options.orientation == Orientation::Apply,
            is_reduced: options.decoder == Decoder::Scaled,
            limits: Limits { pixels: options.max_pixels, pixels_per_byte: options.max_pixels_per_byte },
            fit: options.fit.unwrap_or_default(),
            filter: options.filter.unwrap_or_default(),
            short_side,
        }))
    }

    /// What both axes of an image become that has so many columns and rows, decoded smaller by a divisor.
    pub fn axes(&self, (width, height): (usize, usize), reduction: usize) -> (Axis, Axis) {
        let short = self.short_side;
        let (new_width, new_height) = match self.fit {
            Fit::Stretch => (self.width, self.height),
            Fit::Crop if width <= height => (short, short * height / width),
            Fit::Crop => (short * width / height, short),
        };
        let axis = |size: usize, output: usize, length: usize| Axis {
            filter: self.filter,
            size,
            reduction,
            output,
            offset: (output - length) / 2,
            length,
        };
        (axis(width, new_width, self.width), axis(height, new_height, self.height))
    }

    /// The short side that an image may be decoded in without losing what the model would see.
    pub fn decoded_side(&self) -> usize {
        match self.fit {
            Fit::Crop => self.short_side * 2,
            Fit::Stretch => self.width.max(self.height) * 2,
        }
    }
}

/// Columns and rows of the model's images.
fn size(signature: &Signature) -> Result<(usize, usize), Failure> {
    let [input] = signature.inputs.as_slice() else {
        return Err(no_image_input(&format!("it has {} inputs", signature.inputs.len())));
    };
    let [None | Some(1), Some(3), height, width] = *input.dims.as_slice() else {
        return Err(no_image_input(&format!("its input '{}' has the shape {:?}", input.name, input.wire_shape())));
    };
    if input.data_type != DataType::Fp32 {
        return Err(no_image_input(&format!("its input '{}' is {}", input.name, input.data_type.name())));
    }
    Ok((width.unwrap_or(DEFAULT_SIZE), height.unwrap_or(DEFAULT_SIZE)))
}

fn no_image_input(problem: &str) -> Failure {
    Failure::new(
        Reason::SettingsInvalid,
        format!("the model can't take images: {problem}"),
        "set preprocessing to None, or serve a model with one FP32 input of shape [-1, 3, height, width]",
    )
}

fn wrong(field: &str, problem: &str) -> Failure {
    Failure::new(
        Reason::SettingsInvalid,
        format!("the settings are wrong: model.preprocessing.{field} {problem}"),
        "correct the settings",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TensorSpec;

    fn signature(dims: &[Option<usize>], data_type: DataType) -> Signature {
        let input = TensorSpec { name: "x".to_owned(), data_type, dims: dims.to_vec() };
        Signature { inputs: vec![input], outputs: vec![], platform: "test" }
    }

    #[test]
    fn a_model_without_an_image_input_is_refused_with_its_shape() {
        let none = Recipe::new(&Preset::None.into(), &signature(&[None], DataType::Int64)).unwrap();
        assert!(none.is_none());
        for (dims, data_type, part) in [
            (vec![None, Some(10)], DataType::Fp32, "shape [-1, 10]"),
            (vec![None, Some(224), Some(224), Some(3)], DataType::Fp32, "shape [-1, 224, 224, 3]"),
            (vec![Some(8), Some(3), Some(224), Some(224)], DataType::Fp32, "shape [8, 3, 224, 224]"),
            (vec![None, Some(3), None, None], DataType::Uint8, "is UINT8"),
        ] {
            let failure = Recipe::new(&Preset::Clip.into(), &signature(&dims, data_type)).unwrap_err();
            assert_eq!(failure.reason, Reason::SettingsInvalid);
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn options_change_the_preset_and_are_checked() {
        let open = signature(&[None, Some(3), None, None], DataType::Fp32);
        let recipe = |options: &str| {
            Recipe::new(&serde_json::from_str(options).unwrap(), &open)
                .map(Option::unwrap)
                .map_err(|error| error.message)
        };
        let clip = recipe(r#"{"preset":"Clip"}"#).unwrap();
        assert_eq!(
            (clip.width, clip.height, clip.short_side, clip.is_turned, clip.is_reduced),
            (224, 224, 224, false, false)
        );
        assert_eq!(recipe(r#"{"preset":"ImageNet"}"#).unwrap().short_side, 256);
        let own = recipe(
            r#"{"preset":"ImageNet","fit":"Stretch","filter":"Lanczos","mean":[0.5,0.5,0.5],"standardDeviation":[0.5,0.5,0.5],
                "orientation":"Apply","decoder":"Scaled","maxPixels":1000,"maxPixelsPerByte":10}"#,
        )
        .unwrap();
        assert_eq!((own.tables[0][255], own.tables[2][0]), (1.0, -1.0));
        assert_eq!((own.is_turned, own.is_reduced), (true, true));
        assert_eq!(own.limits, Limits { pixels: 1000, pixels_per_byte: 10 });
        let (horizontal, vertical) = own.axes((640, 480), 1);
        assert_eq!((horizontal.output, horizontal.offset, vertical.output, vertical.offset), (224, 0, 224, 0));
        assert_eq!(horizontal.filter, Filter::Lanczos);
        for (options, part) in [
            (r#"{"preset":"Clip","shortSide":100}"#, "shortSide must be 224 to 16384, not 100"),
            (r#"{"preset":"Clip","standardDeviation":[0,1,1]}"#, "deviations not 0"),
            (r#"{"preset":"Clip","maxPixels":0}"#, "maxPixels"),
        ] {
            let message = recipe(options).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
