//! From a model's file to its devices: the provider that was asked for, or the one that Auto finds best.
//!
//! - `engines`: TensorRT's engines, from the cache or built into it.
//! - `auto`, [`choose`], [`measure`]: each provider at hand runs, and the fastest one whose answers are right is taken.

mod auto;
pub mod choose;
mod engines;
pub mod measure;

use std::{path::Path, thread};

use self::choose::Choice;
use super::{
    Device,
    engine_cache::{
        Cache, CacheError,
        key::{Hardware, Software},
    },
    mapped,
    onnx::{
        Onnx,
        accelerators::Accelerators,
        library::Library,
        plan::{self, Plan, Provider},
    },
    probe::{self, Agreement},
};
use crate::{
    failure::{Failure, Reason},
    gpu,
    model::Signature,
    settings::{self, ExecutionProvider},
    tensor::Tensor,
};

/// Rows of the question whose answers are compared: two, so that an answer to the wrong row shows.
const QUESTION_ROWS: usize = 2;

/// What to open.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// ONNX Runtime's library.
    pub library: Option<&'a Path>,
    /// The model's file.
    pub model: &'a Path,
    /// The hash of the model's files.
    pub model_sha256: &'a str,
    /// What was asked for.
    pub provider: ExecutionProvider,
    /// How many devices.
    pub instances: usize,
    /// The most rows of a batch.
    pub max_rows: usize,
    /// The only sizes of a batch, where smaller ones are padded up to them; empty: any.
    pub buckets: &'a [usize],
    /// What the model's configuration says about the providers.
    pub accelerators: &'a Accelerators,
    /// Where engines and decisions are kept.
    pub cache: Option<&'a settings::Cache>,
}

/// What was opened.
pub struct Opened {
    /// One for each instance, all alike.
    pub devices: Vec<Box<dyn Device>>,
    /// What Auto decided, where it had to.
    pub choice: Option<Choice>,
}

/// The processor's answer to a question, and what the model takes.
struct Reference {
    signature: Signature,
    rows: usize,
    outputs: Vec<Tensor>,
}

struct Opener<'a> {
    opening: &'a Opening<'a>,
    library: Library,
    cache: Option<Cache>,
    hardware: Hardware,
}

/// Opens the model.
///
/// # Errors
/// When the library, the provider, the cache or the model can't be used.
pub fn open(opening: &Opening<'_>) -> Result<Opened, Failure> {
    let opener = Opener {
        opening,
        library: Library::load(opening.library)?,
        cache: cache(opening)?,
        hardware: gpu::hardware().unwrap_or_default(),
    };
    let (devices, choice) = match opening.provider {
        ExecutionProvider::Cpu => (opener.instances(Provider::Cpu, None)?, None),
        ExecutionProvider::Cuda => (opener.instances(Provider::Cuda, None)?, None),
        ExecutionProvider::TensorRt => (opener.tensor_rt()?, None),
        ExecutionProvider::Auto => {
            let (devices, choice) = opener.auto()?;
            (devices, Some(choice))
        }
    };
    let devices = devices.into_iter().map(|device| Box::new(device) as Box<dyn Device>).collect();
    Ok(Opened { devices, choice })
}

/// The folder is opened only where something is kept in it.
fn cache(opening: &Opening<'_>) -> Result<Option<Cache>, Failure> {
    let keeps = matches!(opening.provider, ExecutionProvider::Auto | ExecutionProvider::TensorRt);
    match opening.cache.filter(|_| keeps) {
        None => Ok(None),
        Some(cache) => {
            Cache::open(&cache.path, cache.max_mebibytes << 20).map(Some).map_err(|error| broken_cache(&error))
        }
    }
}

fn broken_cache(error: &CacheError) -> Failure {
    let fix = "give the server's user (65532 in a pod) a writable folder as cache.path, or leave the cache out";
    Failure::new(Reason::SettingsInvalid, error.to_string(), fix)
}

impl Opener<'_> {
    fn instances(&self, provider: Provider, reference: Option<&Reference>) -> Result<Vec<Onnx>, Failure> {
        (0..self.opening.instances.max(1)).map(|_| self.one(provider, reference)).collect()
    }

    fn one(&self, provider: Provider, reference: Option<&Reference>) -> Result<Onnx, Failure> {
        let model = self.opening.model;
        match (provider, reference) {
            (Provider::Cpu, _) => Onnx::open(&self.library, model, &cpu(self.opening.instances)),
            (Provider::Cuda, _) => Onnx::open(&self.library, model, &Plan::cuda(self.opening.accelerators)),
            (Provider::TensorRt, Some(reference)) => self.engines(&reference.signature),
            (Provider::TensorRt, None) => self.engines(&self.reference()?.signature),
        }
    }

    /// TensorRT as asked for: half precision must not have broken the model.
    fn tensor_rt(&self) -> Result<Vec<Onnx>, Failure> {
        // The provider first: without it, minutes of other work would end in the same refusal.
        self.library.register(&Plan::tensor_rt_probe())?;
        let reference = self.reference()?;
        let mut devices = self.instances(Provider::TensorRt, Some(&reference))?;
        if let Some(device) = devices.first_mut() {
            let agreement = self.ask(device, &reference)?;
            if !choose::is_right(agreement) {
                let message = format!(
                    "TensorRT's answers are not the CPU's: cosine {:.5}, error {:.3}",
                    agreement.cosine, agreement.error
                );
                let fix =
                    "set precision_mode FP32 for the accelerator tensorrt in config.pbtxt, or executionProvider Cuda";
                return Err(Failure::new(Reason::WarmUpFailed, message, fix));
            }
            tracing::info!(cosine = agreement.cosine, error = agreement.error, "TensorRT's answers are the CPU's");
        }
        Ok(devices)
    }

    /// What the CPU answers, in single precision.
    fn reference(&self) -> Result<Reference, Failure> {
        let mut device = Onnx::open(&self.library, self.opening.model, &cpu(1))?;
        let signature = device.signature().clone();
        let rows = self.question_rows();
        let outputs =
            device.run(&probe::sample(&signature, rows)).map_err(|error| self.does_not_run("CPU", &error.0))?;
        Ok(Reference { signature, rows, outputs: outputs.outputs })
    }

    fn question_rows(&self) -> usize {
        match self.opening.buckets.iter().min() {
            Some(smallest) => *smallest,
            None => QUESTION_ROWS.min(self.opening.max_rows),
        }
    }

    fn ask(&self, device: &mut Onnx, reference: &Reference) -> Result<Agreement, Failure> {
        let answer = device
            .run(&probe::sample(&reference.signature, reference.rows))
            .map_err(|error| self.does_not_run(device.provider(), &error.0))?;
        Ok(Agreement::of(&reference.outputs, &answer.outputs))
    }

    fn does_not_run(&self, provider: &str, problem: &str) -> Failure {
        let message = format!("{} does not run on {provider}: {problem}", self.opening.model.display());
        Failure::new(Reason::WarmUpFailed, message, "run the model with ONNX Runtime alone to see what it lacks")
    }

    /// After TensorRT was registered once, the library that it needs is mapped, and its path tells the version.
    fn software(&self) -> Software {
        Software {
            onnx_runtime: self.library.version().to_owned(),
            tensor_rt: mapped::version("libnvinfer.so.").unwrap_or_default(),
        }
    }
}

/// The container's share of the cores: the library would count the machine's.
fn cpu(instances: usize) -> Plan {
    Plan::cpu(plan::threads_each(thread::available_parallelism().map_or(1, usize::from), instances))
}
