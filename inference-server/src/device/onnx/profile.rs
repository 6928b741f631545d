//! TensorRT's ranges of shapes, in the form in which the library takes them. Pure.
//!
//! The library executes with the first profile of an engine only, so each range is a session of its own: one for all sizes of
//! a batch, or one for each padding bucket.

use crate::model::TensorSpec;

/// The sizes of a batch that one engine serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The smallest.
    pub min: usize,
    /// The one it is fastest at.
    pub opt: usize,
    /// The largest.
    pub max: usize,
}

impl Rows {
    /// One size and no other.
    pub fn exactly(rows: usize) -> Self {
        Self { min: rows, opt: rows, max: rows }
    }

    /// Every size up to the largest, fastest at the largest: that is what a server under load runs.
    pub fn up_to(max: usize) -> Self {
        Self { min: 1, opt: max, max }
    }
}

/// The value of the three options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// `trt_profile_min_shapes`.
    pub min: String,
    /// `trt_profile_opt_shapes`.
    pub opt: String,
    /// `trt_profile_max_shapes`.
    pub max: String,
}

/// A dimension for which no range can be guessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "dimension {index} of the input '{input}' is open, and TensorRT needs a range for it: fix the size in the model, or set \
     trt_profile_min_shapes, trt_profile_opt_shapes and trt_profile_max_shapes for all open inputs in config.pbtxt"
)]
pub struct OpenDimension {
    /// The input.
    pub input: String,
    /// The dimension, the batch being 0.
    pub index: usize,
}

impl Profile {
    /// The ranges of all inputs with an open batch; none where every input is fixed.
    ///
    /// # Errors
    /// When another dimension than the first is open.
    pub fn of(inputs: &[TensorSpec], rows: Rows) -> Result<Option<Self>, OpenDimension> {
        let mut open = Vec::new();
        for input in inputs {
            if let Some(index) = input.dims.iter().skip(1).position(Option::is_none) {
                return Err(OpenDimension { input: input.name.clone(), index: index + 1 });
            }
            if input.dims.first() == Some(&None) {
                open.push(input);
            }
        }
        let side = |rows: usize| open.iter().map(|input| shape(input, rows)).collect::<Vec<_>>().join(",");
        Ok((!open.is_empty()).then(|| Self { min: side(rows.min), opt: side(rows.opt), max: side(rows.max) }))
    }
}

/// `name:8x3x224x224`.
fn shape(input: &TensorSpec, rows: usize) -> String {
    let sizes: Vec<String> = input.dims.iter().map(|dim| dim.unwrap_or(rows).to_string()).collect();
    format!("{}:{}", input.name, sizes.join("x"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn spec(name: &str, dims: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), data_type: DataType::Fp32, dims: dims.to_vec() }
    }

    #[test]
    fn every_open_input_has_its_range_and_a_fixed_one_has_none() {
        let inputs = [spec("a", &[None, Some(3)]), spec("table", &[Some(2)]), spec("b", &[None])];
        let profile = Profile::of(&inputs, Rows::up_to(8)).unwrap().unwrap();
        assert_eq!(
            (profile.min.as_str(), profile.opt.as_str(), profile.max.as_str()),
            ("a:1x3,b:1", "a:8x3,b:8", "a:8x3,b:8")
        );
        let exact = Profile::of(&inputs, Rows::exactly(4)).unwrap().unwrap();
        assert!(exact.min == exact.max && exact.min == "a:4x3,b:4");
        assert_eq!(Profile::of(&inputs[1..2], Rows::up_to(8)), Ok(None));
    }

    #[test]
    fn an_open_size_of_an_image_is_not_guessed() {
        let error = Profile::of(&[spec("pixels", &[None, Some(3), None, Some(4)])], Rows::up_to(8)).unwrap_err();
        assert_eq!(error, OpenDimension { input: "pixels".to_owned(), index: 2 });
        assert!(error.to_string().contains("trt_profile_min_shapes"));
    }
}
