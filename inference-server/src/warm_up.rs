//! The self-test before readiness: every size of a batch runs on every device, the outputs are numbers, and two runs agree.
//!
//! The largest batch goes first, so that the device's memory grows once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    device::{
        Device,
        probe::{floats, sample},
    },
    failure::{Failure, Reason},
    tensor::{DataType, Tensor},
};

/// How far two runs of one input may differ, relative to the larger value: some GPU kernels add in any order.
const TOLERANCE: f64 = 1e-2;

const FIX: &str =
    "run the model with ONNX Runtime alone; a dimension that must have a certain size must be fixed in the model";

/// How long a size of a batch took on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warmed {
    /// The size.
    pub rows: usize,
    /// The first run, in which memory grows and kernels are chosen.
    pub first: Duration,
    /// The second.
    pub second: Duration,
}

/// Runs each of `sizes` twice on each device.
///
/// # Errors
/// When a run fails, gives something that is no number, or gives two answers to one question; and when `stop` is true.
pub fn warm_up(devices: &mut [Box<dyn Device>], sizes: &[usize], stop: &AtomicBool) -> Result<Vec<Warmed>, Failure> {
    let mut warmed = Vec::new();
    for device in devices {
        for rows in sizes {
            warmed.push(run_twice(device.as_mut(), *rows, stop)?);
        }
    }
    Ok(warmed)
}

/// The sizes to run, largest first: the buckets, or every power of two up to `max_rows` and `max_rows` itself.
pub fn sizes(max_rows: usize, buckets: &[usize], is_batched: bool) -> Vec<usize> {
    if !is_batched {
        return vec![1];
    }
    let mut sizes = buckets.to_vec();
    if sizes.is_empty() {
        sizes = std::iter::successors(Some(1), |size| Some(size * 2)).take_while(|size| *size < max_rows).collect();
        sizes.push(max_rows);
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    sizes
}

/// Twice costs little, and shows a fault that only one size has.
fn run_twice(device: &mut dyn Device, rows: usize, stop: &AtomicBool) -> Result<Warmed, Failure> {
    let failed = |message: String| Failure::new(Reason::WarmUpFailed, message, FIX);
    let inputs = sample(device.signature(), rows);
    let mut run = || {
        if stop.load(Ordering::Acquire) {
            return Err(failed("the server stops before the model was ready".to_owned()));
        }
        let start = Instant::now();
        let executed =
            device.run(&inputs).map_err(|error| failed(format!("a batch of {rows} does not run: {error}")))?;
        Ok((start.elapsed(), executed.outputs))
    };
    let (first, expected) = run()?;
    let (second, outputs) = run()?;
    for (spec, output) in device.signature().outputs.iter().zip(expected.iter().zip(&outputs)) {
        let (one, two) = output;
        if floats(one).chain(floats(two)).any(|value| !value.is_finite()) {
            let message = format!("the output '{}' of a batch of {rows} has values that are no numbers", spec.name);
            return Err(failed(message));
        }
        if !agree(one, two) {
            return Err(failed(format!("two runs of one batch of {rows} do not agree in the output '{}'", spec.name)));
        }
    }
    tracing::debug!(rows, first = first.as_secs_f64(), second = second.as_secs_f64(), "warmed up");
    Ok(Warmed { rows, first, second })
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
        device::{BatchInput, DeviceError, Executed, timer::Timer},
        model::Signature,
        tensor::little_endian,
    };

    /// Gives the next of some values at each run.
    struct Scripted(Timer, Vec<f32>);

    impl Scripted {
        fn of(values: &[f32]) -> Box<dyn Device> {
            let timer = Timer::new(Duration::ZERO, Duration::ZERO, &[1]);
            Box::new(Self(timer, values.iter().rev().copied().collect()))
        }
    }

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

    fn result(devices: &mut [Box<dyn Device>], sizes: &[usize]) -> Result<Vec<usize>, String> {
        let warmed = warm_up(devices, sizes, &AtomicBool::new(false));
        warmed.map(|warmed| warmed.iter().map(|size| size.rows).collect()).map_err(|failure| failure.message)
    }

    #[test]
    fn every_power_of_two_and_the_largest_or_the_buckets() {
        assert_eq!(sizes(1, &[], true), [1]);
        assert_eq!(sizes(8, &[], true), [8, 4, 2, 1]);
        assert_eq!(sizes(12, &[], true), [12, 8, 4, 2, 1]);
        assert_eq!(sizes(12, &[4, 12], true), [12, 4]);
        assert_eq!(sizes(12, &[4, 12], false), [1]);
    }

    #[test]
    fn a_model_must_give_numbers_and_the_same_ones_twice() {
        assert_eq!(result(&mut [Scripted::of(&[1.0, 1.001])], &[1]), Ok(vec![1]));
        for (values, part) in [
            (vec![1.0, 2.0], "do not agree in the output 'output'"),
            (vec![f32::NAN, 1.0], "no numbers"),
            (vec![1.0, f32::INFINITY], "no numbers"),
            (vec![1.0], "does not run: no more"),
        ] {
            let error = result(&mut [Scripted::of(&values)], &[1]).unwrap_err();
            assert!(error.contains(part), "{values:?}: {error}");
        }
    }

    #[test]
    fn every_device_runs_every_size() {
        let good = || Scripted::of(&[1.0, 1.0, 2.0, 2.0]);
        assert_eq!(result(&mut [good(), good()], &[4, 2]), Ok(vec![4, 2, 4, 2]));
        let bad = Scripted::of(&[1.0, 1.0, 2.0, 3.0]);
        assert!(result(&mut [good(), bad], &[4, 2]).unwrap_err().contains("one batch of 2 do not agree"));
    }

    #[test]
    fn a_server_that_stops_runs_nothing_more() {
        let stop = AtomicBool::new(true);
        let failure = warm_up(&mut [Scripted::of(&[1.0, 1.0])], &[1], &stop).unwrap_err();
        assert!(failure.message.contains("stops before"), "{failure}");
    }
}
