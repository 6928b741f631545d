//! The self-test before readiness: sizes of a batch run on every device, the outputs are numbers, and two runs agree.
//!
//! The largest batch goes first, so that the device's memory grows once. Where each size has kernels of its own, each runs, and
//! twice: the first run chooses or builds them. A processor has one kernel for all sizes; there the largest batch is run for
//! its memory, and one row for its answer.

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
    /// Its runs.
    pub took: Duration,
}

/// Runs each of `sizes` on each device: all twice, or the smallest alone where sizes have no kernels of their own.
///
/// # Errors
/// When a run fails, gives something that is no number, or gives two answers to one question; and when `stop` is true.
pub fn warm_up(devices: &mut [Box<dyn Device>], sizes: &[usize], stop: &AtomicBool) -> Result<Vec<Warmed>, Failure> {
    let mut warmed = Vec::new();
    for device in devices {
        let smallest = sizes.iter().min().filter(|_| !device.has_kernels_by_size());
        for rows in sizes {
            let is_repeated = smallest.is_none_or(|smallest| smallest == rows);
            warmed.push(test(device.as_mut(), *rows, is_repeated, stop)?);
        }
    }
    Ok(warmed)
}

/// The sizes to run, largest first: the buckets; or `max_rows` and one row, with every power of two between them where `by_size`,
/// which is where each size has kernels of its own.
pub fn sizes(max_rows: usize, buckets: &[usize], is_batched: bool, by_size: bool) -> Vec<usize> {
    if !is_batched {
        return vec![1];
    }
    let mut sizes = buckets.to_vec();
    if sizes.is_empty() {
        let last = if by_size { max_rows } else { max_rows.min(2) };
        sizes = std::iter::successors(Some(1), |size| Some(size * 2)).take_while(|size| *size < last).collect();
        sizes.push(max_rows);
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    sizes
}

/// Runs a size, and once more to see whether the two answers agree.
fn test(device: &mut dyn Device, rows: usize, is_repeated: bool, stop: &AtomicBool) -> Result<Warmed, Failure> {
    let failed = |message: String| Failure::new(Reason::WarmUpFailed, message, FIX);
    let inputs = sample(device.signature(), rows);
    let mut run = || {
        if stop.load(Ordering::Acquire) {
            return Err(failed("the server stops before the model was ready".to_owned()));
        }
        let executed =
            device.run(&inputs).map_err(|error| failed(format!("a batch of {rows} does not run: {error}")))?;
        Ok(executed.outputs)
    };
    let start = Instant::now();
    let expected = run()?;
    let outputs = if is_repeated { run()? } else { expected.clone() };
    let took = start.elapsed();
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
    tracing::debug!(rows, seconds = took.as_secs_f64(), "warmed up");
    Ok(Warmed { rows, took })
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

    /// Gives the next of some values at each run; the third part says whether sizes have kernels of their own.
    struct Scripted(Timer, Vec<f32>, bool);

    impl Scripted {
        fn of(values: &[f32]) -> Box<dyn Device> {
            let timer = Timer::new(Duration::ZERO, Duration::ZERO, &[1]);
            Box::new(Self(timer, values.iter().rev().copied().collect(), true))
        }
    }

    impl Device for Scripted {
        fn signature(&self) -> &Signature {
            self.0.signature()
        }

        fn provider(&self) -> &'static str {
            "Scripted"
        }

        fn has_kernels_by_size(&self) -> bool {
            self.2
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
        assert_eq!(sizes(1, &[], true, true), [1]);
        assert_eq!(sizes(8, &[], true, true), [8, 4, 2, 1]);
        assert_eq!(sizes(12, &[], true, true), [12, 8, 4, 2, 1]);
        assert_eq!(sizes(12, &[4, 12], true, true), [12, 4]);
        assert_eq!(sizes(12, &[4, 12], false, true), [1]);
        // One kernel for all sizes.
        assert_eq!(sizes(1, &[], true, false), [1]);
        assert_eq!(sizes(2, &[], true, false), [2, 1]);
        assert_eq!(sizes(12, &[], true, false), [12, 1]);
        assert_eq!(sizes(12, &[4, 8, 12], true, false), [12, 8, 4]);
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
    fn where_one_kernel_serves_all_sizes_the_smallest_runs_twice() {
        let timer = || Timer::new(Duration::ZERO, Duration::ZERO, &[1]);
        let processor = |values: &[f32]| -> Box<dyn Device> { Box::new(Scripted(timer(), values.to_vec(), false)) };
        // Values are given from the end.
        assert_eq!(result(&mut [processor(&[3.0, 3.0, 2.0])], &[8, 1]), Ok(vec![8, 1]));
        assert!(
            result(&mut [processor(&[4.0, 3.0, 2.0])], &[8, 1]).unwrap_err().contains("one batch of 1 do not agree")
        );
        assert!(result(&mut [processor(&[1.0, 1.0, f32::NAN])], &[8, 1]).unwrap_err().contains("no numbers"));
    }

    #[test]
    fn a_server_that_stops_runs_nothing_more() {
        let stop = AtomicBool::new(true);
        let failure = warm_up(&mut [Scripted::of(&[1.0, 1.0])], &[1], &stop).unwrap_err();
        assert!(failure.message.contains("stops before"), "{failure}");
    }
}
