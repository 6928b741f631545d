//! A device for tests of scaling: a batch of `b` takes `alpha * b + tau0`, asleep, and gives its input back.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{BatchInput, Device, DeviceError, Executed};
use crate::{
    failure::{Failure, Reason},
    model::{Signature, TensorSpec},
    tensor::{DataType, Tensor},
};

/// The file `timer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TimerFile {
    alpha_microseconds: u64,
    tau0_microseconds: u64,
    dims: Vec<usize>,
}

/// The device.
#[derive(Debug)]
pub struct Timer {
    alpha: Duration,
    tau0: Duration,
    signature: Signature,
}

impl Timer {
    /// Reads `timer.json`.
    ///
    /// # Errors
    /// When the file can't be read or parsed.
    pub fn load(file: &Path) -> Result<Self, Failure> {
        let broken = |problem: String| {
            Failure::new(
                Reason::ModelLoadFailed,
                format!("{}: {problem}", file.display()),
                r#"write {"alphaMicroseconds":5000,"tau0Microseconds":10000,"dims":[4]}"#,
            )
        };
        let text = fs::read_to_string(file).map_err(|error| broken(error.to_string()))?;
        let parsed: TimerFile = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        let alpha = Duration::from_micros(parsed.alpha_microseconds);
        let tau0 = Duration::from_micros(parsed.tau0_microseconds);
        if alpha > Duration::from_mins(1) || tau0 > Duration::from_mins(1) {
            return Err(broken("a time is longer than a minute".to_owned()));
        }
        Ok(Self::new(alpha, tau0, &parsed.dims))
    }

    /// A device with these times and an input `[-1, dims...]`.
    pub fn new(alpha: Duration, tau0: Duration, dims: &[usize]) -> Self {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            dims: std::iter::once(None).chain(dims.iter().copied().map(Some)).collect(),
        };
        let signature =
            Signature { inputs: vec![spec("input")], outputs: vec![spec("output")], platform: "flotilla_timer" };
        Self { alpha, tau0, signature }
    }
}

impl Device for Timer {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &'static str {
        "Timer"
    }

    fn has_kernels_by_size(&self) -> bool {
        false
    }

    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
        let [input] = inputs else {
            return Err(DeviceError(format!("the timer takes one input, not {}", inputs.len())));
        };
        let rows = input.shape.first().copied().unwrap_or(0);
        let start = Instant::now();
        thread::sleep(self.alpha * u32::try_from(rows).unwrap_or(u32::MAX) + self.tau0);
        let output = Tensor { data_type: DataType::Fp32, shape: input.shape.clone(), data: input.to_data() };
        Ok(Executed { outputs: vec![output], input: Duration::ZERO, infer: start.elapsed(), output: Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Data, little_endian};

    #[test]
    fn a_batch_takes_its_time_and_comes_back() {
        let mut timer = Timer::new(Duration::from_millis(2), Duration::from_millis(3), &[2]);
        let data = little_endian(&[1.0_f32, 2.0, 3.0, 4.0], f32::to_le_bytes);
        let input = BatchInput::new(DataType::Fp32, vec![2, 2], &data);
        let executed = timer.run(&[input]).unwrap();
        assert!(executed.infer >= Duration::from_millis(7));
        assert_eq!(executed.outputs[0].shape, [2, 2]);
        let Data::Fixed(bytes) = &executed.outputs[0].data else { panic!("numbers") };
        assert_eq!(bytes[12..], 4.0_f32.to_le_bytes());
    }

    #[test]
    fn a_broken_file_is_a_failure_that_shows_a_right_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("timer.json");
        fs::write(&file, r#"{"alphaMicroseconds":-1}"#).unwrap();
        let failure = Timer::load(&file).unwrap_err();
        assert_eq!(failure.reason, Reason::ModelLoadFailed);
        assert!(failure.fix.contains("alphaMicroseconds"));
    }
}
