//! How fast a device is at the working batch.

use std::time::{Duration, Instant};

use crate::device::{Device, DeviceError, probe};
use crate::tensor::Tensor;

/// Runs before the first that counts: memory grows, kernels are loaded, clocks rise.
const WARM_UP_RUNS: usize = 3;
/// Runs that count, at least.
const LEAST_RUNS: usize = 5;
/// Runs that count, at most.
const MOST_RUNS: usize = 200;
/// Beyond the least, runs go on for this long.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// Images per second of the median run, and the answer.
///
/// # Errors
/// When a run fails.
pub fn measure(device: &mut dyn Device, rows: usize) -> Result<(f64, Vec<Tensor>), DeviceError> {
    let inputs = probe::sample(device.signature(), rows);
    let mut outputs = device.run(&inputs)?.outputs;
    for _ in 1..WARM_UP_RUNS {
        outputs = device.run(&inputs)?.outputs;
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < LEAST_RUNS || (start.elapsed() < LONG_ENOUGH && times.len() < MOST_RUNS) {
        let begun = Instant::now();
        outputs = device.run(&inputs)?.outputs;
        times.push(begun.elapsed());
    }
    Ok((rate(&mut times, rows), outputs))
}

/// The median keeps out what the machine did besides.
#[expect(clippy::cast_precision_loss, reason = "a batch has at most 1024 images")]
fn rate(times: &mut [Duration], rows: usize) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    if median.is_zero() { 0.0 } else { rows as f64 / median.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::timer::Timer;

    #[test]
    fn one_slow_run_is_no_slow_device() {
        let ms = Duration::from_millis;
        assert!((rate(&mut [ms(10), ms(900), ms(10), ms(11), ms(9)], 4) - 400.0).abs() < 1e-6);
        assert!(rate(&mut [], 4) == 0.0, "no run, no rate");
    }

    #[test]
    fn a_device_is_as_fast_as_it_is() {
        let mut timer = Timer::new(Duration::from_millis(1), Duration::from_millis(2), &[1]);
        let (rate, outputs) = measure(&mut timer, 8).unwrap();
        // Sleep takes a little longer than asked for, and on a busy machine much longer; never shorter.
        assert!((50.0..=800.0).contains(&rate), "{rate} images/s, where 8 take 10 ms or longer");
        assert_eq!(outputs[0].shape, [8, 1]);
    }
}
