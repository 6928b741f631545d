//! From a model's files to a model that answers.

use std::{path::Path, sync::Arc, thread, time::SystemTime};

use super::{Serving, report::LoadReport, source::Found};
use crate::{
    device::{Device, onnx::Onnx, timer::Timer},
    engine::{Engine, EngineConfig, Images, batch::Policy},
    failure::{Failure, Reason},
    image::Preprocessor,
    metrics::Metrics,
    model::{Kind, ModelFiles, Signature, VersionPolicy},
    settings::{ExecutionProvider, Preset, Settings, layer::ModelSettings},
    warm_up::warm_up,
};

/// What to load.
pub(super) struct Order<'a> {
    /// The model's name.
    pub(super) name: &'a str,
    /// Its files.
    pub(super) found: &'a Found,
    /// What the server was told.
    pub(super) settings: &'a Settings,
    /// ONNX Runtime's library.
    pub(super) library: Option<&'a Path>,
}

/// Loads every version that is to be served, and warms each up. `announce` hears of a version's metrics before its load begins.
///
/// # Errors
/// When one can't be found, loaded or run.
pub(super) fn load(order: &Order<'_>, announce: impl Fn(u64, &Arc<Metrics>)) -> Result<Vec<(u64, Serving)>, Failure> {
    let settings = order.settings.for_model(order.name).resolve().map_err(|error| {
        Failure::new(Reason::SettingsInvalid, error.to_string(), "correct the flag or the settings file")
    })?;
    if order.found.config.is_some() {
        tracing::warn!(model = order.name, "config.pbtxt is not read");
    }
    let versions = order.found.folder.select(&VersionPolicy::default(), None)?;
    let mut servings = Vec::with_capacity(versions.len());
    for files in versions {
        let metrics = Metrics::new(order.name, &files.version.to_string())
            .map_err(|error| Failure::internal(&error.to_string()))?;
        let metrics = Arc::new(metrics);
        announce(files.version, &metrics);
        servings.push((files.version, load_version(order, &settings, &files, metrics)?));
    }
    Ok(servings)
}

fn load_version(
    order: &Order<'_>,
    settings: &ModelSettings,
    files: &ModelFiles,
    metrics: Arc<Metrics>,
) -> Result<Serving, Failure> {
    let mut report = LoadReport::start();
    let sha256 = files.sha256().map_err(|error| {
        let message = format!("{} can't be read: {error}", files.file.display());
        Failure::new(Reason::ModelLoadFailed, message, "make the model's files readable for the server's user")
    })?;
    report.spent("sha256");
    let mut devices = Vec::with_capacity(settings.instances);
    for _ in 0..settings.instances {
        devices.push(open(files, order.library, settings.execution_provider)?);
        report.spent("session");
    }
    let provider = devices.first().map_or("", |device| device.provider());
    let images = match devices.first() {
        Some(device) => images(files.kind, settings, device.signature())?,
        None => Images::Refused,
    };
    for device in &mut devices {
        for (rows, time) in warm_up(device.as_mut(), settings.max_batch_size)? {
            report.add(format!("warm_up_{rows}"), time);
        }
    }

    let config = EngineConfig {
        model: order.name.to_owned(),
        policy: Policy { max_rows: settings.max_batch_size, max_delay: settings.max_queue_delay },
        max_queue_size: settings.max_queue_size,
        images,
        // One core is left to the network and to the thread that feeds the device.
        decode_threads: thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1),
        buckets: settings.padding_buckets.clone(),
        max_request_rows: settings.max_request_size,
        priority_levels: settings.priority_levels,
        default_priority: settings.default_priority,
        default_timeout: settings.default_timeout,
    };
    metrics
        .set_info(provider, &sha256)
        .and_then(|()| metrics.set_load(&report))
        .map_err(|error| Failure::internal(&error.to_string()))?;
    let engine =
        Engine::start(devices, config, Arc::clone(&metrics)).map_err(|error| Failure::internal(&error.to_string()))?;
    tracing::info!(
        model = order.name,
        version = files.version,
        provider,
        model_sha256 = sha256,
        instances = settings.instances,
        seconds = report.total().as_secs_f64(),
        spent = %report,
        "the model is ready"
    );
    Ok(Serving {
        engine,
        name: order.name.to_owned(),
        version: files.version.to_string(),
        metrics,
        model_sha256: sha256,
        provider,
        loaded_at: SystemTime::now(),
        report,
    })
}

/// One instance of the model.
fn open(files: &ModelFiles, library: Option<&Path>, provider: ExecutionProvider) -> Result<Box<dyn Device>, Failure> {
    Ok(match files.kind {
        Kind::Onnx => Box::new(Onnx::load(library, &files.file, provider)?),
        Kind::Timer => Box::new(Timer::load(&files.file)?),
    })
}

/// What images are for the model.
fn images(kind: Kind, settings: &ModelSettings, signature: &Signature) -> Result<Images, Failure> {
    Ok(match (kind, settings.preprocessing.preset) {
        (Kind::Timer, Preset::None) => Images::Refused,
        (Kind::Timer, _) => Images::Ignored,
        (Kind::Onnx, preset) => Preprocessor::new(preset, signature)?
            .map_or(Images::Refused, |preprocessor| Images::Decoded(Arc::new(preprocessor))),
    })
}
