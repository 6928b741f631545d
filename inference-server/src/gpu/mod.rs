//! NVIDIA GPUs as their driver's management library (NVML) shows them, loaded at run time. Without the library there are no
//! GPUs, no series, and one line in the log.

mod metrics;

use std::sync::OnceLock;

use nvml_wrapper::{Device, Nvml, error::NvmlError};

pub use self::metrics::{Page, start};
use crate::device::engine_cache::key::Hardware;

/// What a GPU says of itself now. A value that the driver does not give on this product is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Its identity, as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Share of the last sample's time in which a kernel ran.
    pub utilization: Option<f64>,
    /// All memory, in bytes.
    pub memory_total: Option<f64>,
    /// Memory in use, in bytes.
    pub memory_used: Option<f64>,
    /// Power drawn, in watts.
    pub power_usage: Option<f64>,
    /// Power allowed, in watts.
    pub power_limit: Option<f64>,
    /// Energy since the driver was loaded, in joules.
    pub energy: Option<f64>,
}

/// Where readings come from; a test has its own.
pub trait Source: Send + 'static {
    /// All GPUs that this container sees.
    ///
    /// # Errors
    /// When the driver does not answer.
    fn read(&self) -> Result<Vec<Reading>, String>;
}

/// The driver's library, loaded once: at its first failure it is taken for absent.
fn nvml() -> Option<&'static Nvml> {
    static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
    NVML.get_or_init(|| match Nvml::init() {
        Ok(nvml) => Some(nvml),
        Err(error) => {
            tracing::info!(%error, "no NVIDIA driver here, so there are no metrics of GPUs");
            None
        }
    })
    .as_ref()
}

/// The first GPU, which is the one that a replica uses; none without a driver.
pub fn hardware() -> Option<Hardware> {
    let nvml = nvml()?;
    let read = || {
        let device = nvml.device_by_index(0)?;
        let capability = device.cuda_compute_capability()?;
        let driver = nvml.sys_driver_version()?;
        Ok::<_, NvmlError>(Hardware {
            product: device.name()?,
            compute_capability: format!("{}.{}", capability.major, capability.minor),
            driver_major: major(&driver).to_owned(),
        })
    };
    read().inspect_err(|error| tracing::warn!(%error, "the driver does not say which GPU this is")).ok()
}

/// `580` of `580.82.07`.
fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

/// The driver as a source.
struct Driver(&'static Nvml);

impl Source for Driver {
    fn read(&self) -> Result<Vec<Reading>, String> {
        let count = self.0.device_count().map_err(|error| error.to_string())?;
        (0..count)
            .map(|index| {
                let device = self.0.device_by_index(index).map_err(|error| error.to_string())?;
                reading(&device).map_err(|error| error.to_string())
            })
            .collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes and joules stay far below 2^53")]
fn reading(device: &Device<'_>) -> Result<Reading, NvmlError> {
    let memory = device.memory_info().ok();
    let thousandths = |value: u32| f64::from(value) / 1000.0;
    Ok(Reading {
        uuid: device.uuid()?,
        utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        memory_total: memory.as_ref().map(|memory| memory.total as f64),
        memory_used: memory.as_ref().map(|memory| memory.used as f64),
        power_usage: device.power_usage().ok().map(thousandths),
        power_limit: device.enforced_power_limit().ok().map(thousandths),
        energy: device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1000.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_major_version() {
        for (version, expected) in [("580.82.07", "580"), ("580", "580"), ("", "")] {
            assert_eq!(major(version), expected);
        }
    }
}
