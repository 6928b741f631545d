//! A device seen as a model's configuration wants it: other shapes than the graph's, or fewer outputs.

use super::{BatchInput, Device, DeviceError, Executed};
use crate::{config::fit::Fit, model::Signature};

/// The device behind, and the view of it.
pub struct Fitted {
    device: Box<dyn Device>,
    fit: Fit,
}

impl Fitted {
    /// The device itself where the view changes nothing.
    pub fn wrap(device: Box<dyn Device>, fit: &Fit) -> Box<dyn Device> {
        if fit.is_plain(device.signature()) { device } else { Box::new(Self { device, fit: fit.clone() }) }
    }

    /// How many dimensions go before those that are reshaped.
    fn rows(&self) -> usize {
        usize::from(self.device.signature().is_batched())
    }
}

impl Device for Fitted {
    fn signature(&self) -> &Signature {
        &self.fit.signature
    }

    fn provider(&self) -> &'static str {
        self.device.provider()
    }

    fn has_kernels_by_size(&self) -> bool {
        self.device.has_kernels_by_size()
    }

    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
        let rows = self.rows();
        let mut executed = if self.fit.inputs.iter().all(Option::is_none) {
            self.device.run(inputs)?
        } else {
            // A copy: the batch's memory is the engine's, and reshaped inputs are small.
            let reshaped: Vec<BatchInput> = inputs
                .iter()
                .zip(&self.fit.inputs)
                .map(|(input, reshape)| {
                    let mut shape = input.shape.clone();
                    if let Some(reshape) = reshape {
                        let sizes = shape.split_off(rows.min(shape.len()));
                        shape.extend(reshape.apply(&sizes));
                    }
                    BatchInput::new(input.data_type, shape, &input.to_data())
                })
                .collect();
            self.device.run(&reshaped)?
        };
        let outputs = std::mem::take(&mut executed.outputs);
        executed.outputs = self
            .fit
            .outputs
            .iter()
            .map(|(place, reshape)| {
                let mut output = outputs
                    .get(*place)
                    .cloned()
                    .ok_or_else(|| DeviceError("the model gave fewer outputs than it has".to_owned()))?;
                if let Some(reshape) = reshape {
                    let sizes = output.shape.split_off(rows.min(output.shape.len()));
                    output.shape.extend(reshape.apply(&sizes));
                }
                Ok(output)
            })
            .collect::<Result<_, DeviceError>>()?;
        Ok(executed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::text,
        device::timer::Timer,
        tensor::{DataType, little_endian},
    };

    fn ones(shape: &[usize]) -> BatchInput {
        let values = vec![1.0; shape.iter().product()];
        BatchInput::new(DataType::Fp32, shape.to_vec(), &little_endian(&values, f32::to_le_bytes))
    }

    #[test]
    fn tensors_change_their_shape_on_the_way() {
        let timer: Box<dyn Device> = Box::new(Timer::new(Duration::ZERO, Duration::ZERO, &[4]));
        let config = text::parse(
            r#"max_batch_size: 4 input { name: "input" dims: [ 2, 2 ] reshape { shape: [ 4 ] } }
            output { name: "output" dims: [ 4, 1 ] reshape { shape: [ 4 ] } }"#,
        )
        .unwrap();
        let fit = Fit::new(&config, timer.signature()).unwrap();
        let mut fitted = Fitted::wrap(timer, &fit);
        assert_eq!(fitted.signature().inputs[0].dims, [None, Some(2), Some(2)]);
        assert_eq!(fitted.run(&[ones(&[3, 2, 2])]).unwrap().outputs[0].shape, [3, 4, 1]);
    }

    #[test]
    fn a_view_that_changes_nothing_is_the_device() {
        let timer: Box<dyn Device> = Box::new(Timer::new(Duration::ZERO, Duration::ZERO, &[4]));
        let fit = Fit::new(&text::parse("").unwrap(), timer.signature()).unwrap();
        let mut plain = Fitted::wrap(timer, &fit);
        assert_eq!(plain.run(&[ones(&[1, 4])]).unwrap().outputs[0].shape, [1, 4]);
    }
}
