//! The self-test before readiness: every batch bucket runs, the outputs are numbers, and two runs agree.
//!
//! The largest batch goes first, so that the device's memory grows once.

use std::time::{Duration, Instant};

use crate::{
    device::{BatchInput, Device},
    failure::{Failure, Reason},
    model::TensorSpec,
    tensor::{Data, DataType, Tensor, elements, little_endian},
};

/// The size of a height or width that the model leaves open.
const DEFAULT_SIZE: usize = 224;
/// How far two runs of one input may differ, relative to the larger value: some GPU kernels add in any order.
const TOLERANCE: f64 = 1e-2;

/// Runs every power of two up to `max_rows`, and `max_rows` itself, and says how long each size took.
///
/// # Errors
/// When a run fails, gives something that is no number, or gives two answers to one question.
pub fn warm_up(device: &mut dyn Device, max_rows: usize) -> Result<Vec<(usize, Duration)>, Failure> {
    let failed = |message: String| {
        Failure::new(
            Reason::WarmUpFailed,
            message,
            "run the model with ONNX Runtime alone; a dimension that must have a certain size must be fixed in the model",
        )
    };
    let mut times = Vec::new();
    for rows in buckets(max_rows, device.signature().is_batched()) {
        let start = Instant::now();
        let inputs: Vec<BatchInput> = device.signature().inputs.iter().map(|spec| sample(spec, rows)).collect();
        let mut outputs = Vec::new();
        // Twice at each size costs little, and shows a fault that only one size has.
        for _ in 0..2 {
            let executed =
                device.run(&inputs).map_err(|error| failed(format!("a batch of {rows} does not run: {error}")))?;
            if let Some(spec) = device
                .signature()
                .outputs
                .iter()
                .zip(&executed.outputs)
                .find_map(|(spec, output)| floats(output).any(|value| !value.is_finite()).then_some(spec))
            {
                return Err(failed(format!(
                    "the output '{}' of a batch of {rows} has values that are no numbers",
                    spec.name
                )));
            }
            outputs.push(executed.outputs);
        }
        if !outputs[0].iter().zip(&outputs[1]).all(|(first, second)| agree(first, second)) {
            return Err(failed(format!("two runs of one batch of {rows} do not agree")));
        }
        times.push((rows, start.elapsed()));
    }
    Ok(times)
}

/// The batch sizes to run, largest first.
fn buckets(max_rows: usize, is_batched: bool) -> Vec<usize> {
    if !is_batched {
        return vec![1];
    }
    let mut sizes: Vec<usize> =
        std::iter::successors(Some(1), |size| Some(size * 2)).take_while(|size| *size < max_rows).collect();
    sizes.push(max_rows);
    sizes.reverse();
    sizes
}

/// An input with small values that differ from each other.
fn sample(spec: &TensorSpec, rows: usize) -> BatchInput {
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
fn floats(tensor: &Tensor) -> Box<dyn Iterator<Item = f64> + '_> {
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

fn agree(first: &Tensor, second: &Tensor) -> bool {
    let is_float = matches!(first.data_type, DataType::Fp16 | DataType::Fp32 | DataType::Fp64);
    if !is_float {
        return first == second;
    }
    let close = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * (1.0 + a.abs().max(b.abs()));
    first.shape == second.shape && floats(first).zip(floats(second)).all(|(a, b)| close(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::{DeviceError, Executed, timer::Timer},
        model::Signature,
    };

    /// Gives the next of some values at each run.
    struct Scripted(Timer, Vec<f32>);

    impl Device for Scripted {
        fn signature(&self) -> &Signature {
            self.0.signature()
        }

        fn provider(&self) -> &'static str {
            "Scripted"
        }

        fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
            let value = self.1.pop().ok_or_else(|| DeviceError("no more".to_owned()))?;
            let values = vec![value; inputs[0].typed::<f32>()?.len()];
            let data = little_endian(&values, f32::to_le_bytes);
            let input = BatchInput::new(DataType::Fp32, inputs[0].shape.clone(), &data);
            self.0.run(&[input])
        }
    }

    fn result(values: &[f32]) -> Result<(), String> {
        let timer = Timer::new(Duration::ZERO, Duration::ZERO, &[1]);
        warm_up(&mut Scripted(timer, values.to_vec()), 1).map(drop).map_err(|failure| failure.message)
    }

    #[test]
    fn every_power_of_two_and_the_largest() {
        assert_eq!(buckets(1, true), [1]);
        assert_eq!(buckets(8, true), [8, 4, 2, 1]);
        assert_eq!(buckets(12, true), [12, 8, 4, 2, 1]);
        assert_eq!(buckets(12, false), [1]);
    }

    #[test]
    fn a_model_must_give_numbers_and_the_same_ones_twice() {
        assert_eq!(result(&[1.0, 1.001]), Ok(()));
        assert!(result(&[1.0, 2.0]).unwrap_err().contains("do not agree"));
        assert!(result(&[f32::NAN]).unwrap_err().contains("no numbers"));
        assert!(result(&[]).unwrap_err().contains("does not run: no more"));
    }
}
