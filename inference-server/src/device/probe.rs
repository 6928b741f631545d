//! Inputs to try a model with, and how much two answers agree. Pure.

use super::BatchInput;
use crate::{
    model::{Signature, TensorSpec},
    tensor::{Data, DataType, Tensor, elements, little_endian},
};

/// The size of a height or width that the model leaves open.
const DEFAULT_SIZE: usize = 224;

/// Every input of the model, with small values that differ from each other and from row to row.
pub fn sample(signature: &Signature, rows: usize) -> Vec<BatchInput> {
    signature.inputs.iter().map(|spec| input(spec, rows)).collect()
}

fn input(spec: &TensorSpec, rows: usize) -> BatchInput {
    let shape: Vec<usize> = spec
        .dims
        .iter()
        .enumerate()
        .map(|(index, dim)| match dim {
            Some(size) => *size,
            None if index == 0 => rows,
            None if spec.dims.len() == 4 && index >= 2 => DEFAULT_SIZE,
            None => 1,
        })
        .collect();
    let count = shape.iter().product();
    // 251 is a prime: rows of a usual size begin at different places of the ramp.
    let ramp = (0..count).map(|index| f32::from(u8::try_from(index % 251).unwrap_or(0)) / 251.0);
    let data = match spec.data_type {
        DataType::Fp32 => little_endian(&ramp.collect::<Vec<_>>(), f32::to_le_bytes),
        DataType::Fp64 => little_endian(&ramp.map(f64::from).collect::<Vec<_>>(), f64::to_le_bytes),
        DataType::Fp16 => little_endian(&ramp.map(half::f16::from_f32).collect::<Vec<_>>(), half::f16::to_le_bytes),
        DataType::Bytes => Data::Strings(vec![bytes::Bytes::new(); count]),
        // Zero is the one index that every table has.
        other => Data::Fixed(vec![0; count * other.size().unwrap_or(1)].into()),
    };
    BatchInput::new(spec.data_type, shape, &data)
}

/// The values of a floating-point tensor; none of another.
pub fn floats(tensor: &Tensor) -> Box<dyn Iterator<Item = f64> + '_> {
    match (&tensor.data, tensor.data_type) {
        (Data::Fixed(bytes), DataType::Fp32) => {
            Box::new(elements(bytes).map(|bytes| f64::from(f32::from_le_bytes(bytes))))
        }
        (Data::Fixed(bytes), DataType::Fp64) => Box::new(elements(bytes).map(f64::from_le_bytes)),
        (Data::Fixed(bytes), DataType::Fp16) => {
            Box::new(elements(bytes).map(|bytes| half::f16::from_le_bytes(bytes).to_f64()))
        }
        _ => Box::new(std::iter::empty()),
    }
}

/// How far a second answer is from the first, over all outputs of floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Agreement {
    /// The smallest cosine of two outputs' values, 1 where they point the same way.
    pub cosine: f64,
    /// The largest length of a difference, as a share of the first answer's length. Embeddings of two different images can
    /// have a cosine of 0.998, so the cosine alone would not show an answer to another question.
    pub error: f64,
}

impl Agreement {
    /// The answer itself.
    pub const PERFECT: Self = Self { cosine: 1.0, error: 0.0 };

    /// Compares. Answers of different shapes do not agree at all.
    pub fn of(reference: &[Tensor], outputs: &[Tensor]) -> Self {
        const NONE: Agreement = Agreement { cosine: -1.0, error: f64::MAX };
        if reference.len() != outputs.len() {
            return NONE;
        }
        reference.iter().zip(outputs).fold(Self::PERFECT, |worst, (reference, output)| {
            if reference.shape != output.shape || reference.data_type != output.data_type {
                return NONE;
            }
            let (mut dot, mut first, mut second, mut difference) = (0.0, 0.0, 0.0, 0.0);
            for (a, b) in floats(reference).zip(floats(output)) {
                dot += a * b;
                first += a * a;
                second += b * b;
                difference += (a - b) * (a - b);
            }
            if difference == 0.0 {
                return worst;
            }
            // A reference of zeros has no direction: any other answer is wrong.
            let cosine = if first * second > 0.0 { dot / (first.sqrt() * second.sqrt()) } else { -1.0 };
            let error = if first > 0.0 { (difference / first).sqrt() } else { f64::MAX };
            // Comparisons with what is no number are false, so such a value must be named.
            if cosine.is_nan() || error.is_nan() {
                return NONE;
            }
            Self { cosine: worst.cosine.min(cosine), error: worst.error.max(error) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { data_type: DataType::Fp32, shape: vec![1, values.len()], data: Data::Fixed(bytes.into()) }
    }

    #[test]
    fn agreement() {
        let reference = [tensor(&[3.0, 4.0])];
        for (name, outputs, cosine, error) in [
            ("the same", vec![tensor(&[3.0, 4.0])], 1.0, 0.0),
            ("twice as long", vec![tensor(&[6.0, 8.0])], 1.0, 1.0),
            ("at a right angle", vec![tensor(&[-4.0, 3.0])], 0.0, 2.0_f64.sqrt()),
            ("another shape", vec![tensor(&[3.0])], -1.0, f64::MAX),
            ("nothing", vec![], -1.0, f64::MAX),
            ("no numbers", vec![tensor(&[f32::NAN, 4.0])], -1.0, f64::MAX),
        ] {
            let found = Agreement::of(&reference, &outputs);
            assert!((found.cosine - cosine).abs() < 1e-9, "{name}: {found:?}");
            assert!((found.error - error).abs() < 1e-9, "{name}: {found:?}");
        }
        assert!(Agreement::of(&[tensor(&[0.0])], &[tensor(&[1.0])]).cosine < 0.0);
    }

    #[test]
    fn rows_of_a_sample_differ() {
        let spec =
            TensorSpec { name: "x".to_owned(), data_type: DataType::Fp32, dims: vec![None, Some(3), None, None] };
        let signature = Signature { inputs: vec![spec], outputs: Vec::new(), platform: "test" };
        let inputs = sample(&signature, 2);
        assert_eq!(inputs[0].shape, [2, 3, 224, 224]);
        let values = inputs[0].typed::<f32>().unwrap();
        let (first, second) = values.split_at(values.len() / 2);
        assert_ne!(first, second);
    }
}
