//! From a model's files to a model that answers.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Instant, SystemTime},
};

use super::{Repository, Serving};
use crate::{
    device::{Device, onnx::Onnx, timer::Timer},
    engine::{DEFAULT_TIMEOUT, Engine, EngineConfig, Images, batch::Policy},
    failure::{Failure, Reason},
    image::Preprocessor,
    metrics::Metrics,
    model::{Kind, ModelFiles},
    settings::{Preset, Settings},
    warm_up::warm_up,
};

/// Loads the model of the settings, warms it up and puts it into the repository.
///
/// # Errors
/// When it can't be found, loaded or run.
pub fn load(repository: &Repository, settings: &Settings, library: Option<&Path>) -> Result<(), Failure> {
    let start = Instant::now();
    let name = &settings.model.name;
    let files = ModelFiles::find(&settings.model.path)?;
    let metrics = Arc::new(Metrics::new(name, &files.version).map_err(|error| Failure::internal(&error.to_string()))?);
    repository.announce(name, &files.version, Arc::clone(&metrics));
    let sha256 = files.sha256().map_err(|error| {
        let message = format!("{} can't be read: {error}", files.file.display());
        Failure::new(Reason::ModelLoadFailed, message, "make the model's files readable for the server's user")
    })?;

    let mut device: Box<dyn Device> = match files.kind {
        Kind::Onnx => Box::new(Onnx::load(library, &files.file, settings.execution_provider)?),
        Kind::Timer => Box::new(Timer::load(&files.file)?),
    };
    let images = match (files.kind, settings.model.preprocessing.preset) {
        (Kind::Timer, Preset::None) => Images::Refused,
        (Kind::Timer, _) => Images::Ignored,
        (Kind::Onnx, preset) => Preprocessor::new(preset, device.signature())?
            .map_or(Images::Refused, |preprocessor| Images::Decoded(Arc::new(preprocessor))),
    };
    warm_up(device.as_mut(), settings.batching.max_batch_size)?;
    let provider = device.provider();

    let config = EngineConfig {
        model: name.clone(),
        policy: Policy { max_rows: settings.batching.max_batch_size, max_delay: settings.max_queue_delay() },
        max_queue_size: settings.batching.max_queue_size,
        images,
        // One core is left to the network and to the thread that feeds the device.
        decode_threads: thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1),
        buckets: Vec::new(),
        max_request_rows: 8 * settings.batching.max_batch_size,
        priority_levels: 1,
        default_priority: 1,
        default_timeout: DEFAULT_TIMEOUT,
    };
    metrics.set_info(provider, &sha256).map_err(|error| Failure::internal(&error.to_string()))?;
    let engine = Engine::start(vec![device], config, Arc::clone(&metrics))
        .map_err(|error| Failure::internal(&error.to_string()))?;
    tracing::info!(
        model = name,
        provider,
        model_sha256 = sha256,
        seconds = start.elapsed().as_secs_f64(),
        "the model is ready"
    );
    repository.publish(Serving {
        engine,
        name: name.clone(),
        version: files.version,
        metrics,
        model_sha256: sha256,
        provider,
        loaded_at: SystemTime::now(),
    });
    Ok(())
}
