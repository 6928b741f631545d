//! From a model's files to a model that answers.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::SystemTime,
};

use super::{Serving, report::LoadReport, source::Found};
use crate::{
    config::{
        ConfigError, ModelConfig,
        complete::{Facts, complete},
        fit::Fit,
        sample::{Sample, samples},
        text,
        wish::Wish,
    },
    device::{
        Device,
        fitted::Fitted,
        onnx::accelerators::{AcceleratorError, Accelerators},
        open::{Opened, Opening, open},
        timer::Timer,
    },
    engine::{Engine, EngineConfig, Images, batch::Policy},
    failure::{Failure, Reason},
    image::Preprocessor,
    metrics::Metrics,
    model::{Kind, ModelFiles, Signature},
    settings::{Preset, Settings, layer::ModelSettings},
    warm_up::{sizes, warm_up},
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
    /// A configuration in JSON that takes the place of the model's own.
    pub(super) config: Option<&'a str>,
    /// True when the server stops, and nobody waits for the model any more.
    pub(super) stop: &'a AtomicBool,
}

/// What holds for all versions of a model.
struct Plan<'a> {
    order: &'a Order<'a>,
    settings: ModelSettings,
    config: ModelConfig,
    wish: Wish,
}

/// Loads every version that is to be served, and warms each up. `announce` hears of a version's metrics before its load begins.
///
/// # Errors
/// When one can't be found, loaded or run.
pub(super) fn load(order: &Order<'_>, announce: impl Fn(u64, &Arc<Metrics>)) -> Result<Vec<(u64, Serving)>, Failure> {
    let plan = plan(order)?;
    let versions = order.found.folder.select(&plan.wish.versions, plan.wish.file_name.as_deref())?;
    let mut servings = Vec::with_capacity(versions.len());
    for files in versions {
        let mut metrics = Metrics::with_tags(order.name, &files.version.to_string(), &plan.wish.tags)
            .map_err(|error| refused(order.name, &ConfigError::invalid("metric_tags", error.to_string())))?;
        if order.settings.metrics.summaries {
            metrics.add_summaries().map_err(|error| Failure::internal(&error.to_string()))?;
        }
        let metrics = Arc::new(metrics);
        announce(files.version, &metrics);
        servings.push((files.version, load_version(&plan, &files, metrics)?));
    }
    Ok(servings)
}

/// Reads the model's configuration and lays the settings over it.
fn plan<'a>(order: &'a Order<'a>) -> Result<Plan<'a>, Failure> {
    let config = match (order.config, &order.found.config) {
        (Some(json), _) => text::parse_json(json),
        (None, Some(text)) => text::parse(text),
        (None, None) => Ok(ModelConfig::default()),
    };
    let refuse = |error: ConfigError| refused(order.name, &error);
    let config = config.map_err(refuse)?;
    let wish = Wish::read(&config).map_err(refuse)?;
    for field in &wish.ignored {
        tracing::warn!(model = order.name, field, "the field of the model's configuration has no effect here");
    }
    if !config.name.is_empty() && config.name != order.name {
        tracing::warn!(
            model = order.name,
            configured = config.name,
            "the configuration has another name; the folder's holds"
        );
    }
    let layer = order.settings.for_model(order.name).over(wish.layer.clone());
    let settings = layer.resolve().map_err(|error| {
        let message = format!("model '{}': {error}", order.name);
        Failure::new(
            Reason::SettingsInvalid,
            message,
            "correct the flag, the settings file or the model's config.pbtxt",
        )
    })?;
    Ok(Plan { order, settings, config, wish })
}

fn refused(model: &str, error: &ConfigError) -> Failure {
    let message = format!("model '{model}': the configuration can't be used: {error}");
    Failure::new(Reason::ModelLoadFailed, message, "correct the model's config.pbtxt")
}

fn load_version(plan: &Plan<'_>, files: &ModelFiles, metrics: Arc<Metrics>) -> Result<Serving, Failure> {
    let Plan { order, settings, .. } = plan;
    let mut report = LoadReport::start();
    let sha256 = files.sha256().map_err(|error| {
        let message = format!("{} can't be read: {error}", files.file.display());
        Failure::new(Reason::ModelLoadFailed, message, "make the model's files readable for the server's user")
    })?;
    report.spent("sha256");
    let Opened { devices, choice } = devices(plan, files, &sha256)?;
    let mut devices = devices
        .into_iter()
        .map(|device| {
            let fit = Fit::new(&plan.config, device.signature())?;
            Ok(Fitted::wrap(device, &fit))
        })
        .collect::<Result<Vec<_>, ConfigError>>()
        .map_err(|error| refused(order.name, &error))?;
    report.spent("session");
    let Some(first) = devices.first() else { return Err(Failure::internal("a model has no instance")) };
    let (provider, signature) = (first.provider(), first.signature().clone());
    let images = images(files.kind, settings, &signature)?;
    let samples = samples(&plan.wish.samples, &signature, order.found.folder.path())
        .map_err(|error| refused(order.name, &error))?;
    let by_size = first.has_kernels_by_size();
    let sizes = sizes(settings.max_batch_size, &settings.padding_buckets, signature.is_batched(), by_size);
    for size in warm_up(&mut devices, &sizes, order.stop)? {
        report.add(format!("warm_up_{}", size.rows), size.took);
    }
    for device in &mut devices {
        run_samples(device.as_mut(), &samples, &mut report)?;
    }
    let config = complete(
        &plan.config,
        &Facts {
            name: order.name,
            file_name: &files.file.file_name().unwrap_or_default().to_string_lossy(),
            signature: &signature,
            settings,
            versions: &plan.wish.versions,
            provider,
            provider_reason: choice.as_ref().map(|choice| choice.reason.as_str()),
        },
    );
    metrics
        .set_info(provider, &sha256)
        .and_then(|()| metrics.set_load(&report))
        .map_err(|error| Failure::internal(&error.to_string()))?;
    let engine = Engine::start(devices, engine_config(order.name, settings, images), Arc::clone(&metrics))
        .map_err(|error| Failure::internal(&error.to_string()))?;
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
        config,
        metrics,
        model_sha256: sha256,
        provider,
        loaded_at: SystemTime::now(),
        report,
    })
}

fn run_samples(device: &mut dyn Device, samples: &[Sample], report: &mut LoadReport) -> Result<(), Failure> {
    for sample in samples {
        for _ in 0..sample.count {
            device.run(&sample.inputs).map_err(|error| {
                let message = format!("the model_warmup '{}' does not run: {error}", sample.name);
                Failure::new(Reason::WarmUpFailed, message, "correct the model's config.pbtxt")
            })?;
        }
        report.spent("model_warmup");
    }
    Ok(())
}

fn engine_config(model: &str, settings: &ModelSettings, images: Images) -> EngineConfig {
    EngineConfig {
        model: model.to_owned(),
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
    }
}

/// All instances of the model.
fn devices(plan: &Plan<'_>, files: &ModelFiles, sha256: &str) -> Result<Opened, Failure> {
    let Plan { order, settings, wish, .. } = plan;
    if files.kind == Kind::Timer {
        let timers = (0..settings.instances).map(|_| Ok(Box::new(Timer::load(&files.file)?) as Box<dyn Device>));
        return Ok(Opened { devices: timers.collect::<Result<_, Failure>>()?, choice: None });
    }
    let mut accelerators = Accelerators::default();
    wish.accelerators
        .iter()
        .try_for_each(|(name, keys)| {
            accelerators.add(name, keys.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        })
        .map_err(|error: AcceleratorError| {
            let field = "optimization.execution_accelerators";
            refused(order.name, &ConfigError::invalid(field, error.to_string()))
        })?;
    for key in &accelerators.set_aside {
        tracing::warn!(
            model = order.name,
            key,
            cache = order.settings.cache.as_ref().map_or("none", |cache| cache.path.to_str().unwrap_or_default()),
            "the accelerator's parameter has no effect here: TensorRT's engines are kept where cache.path says"
        );
    }
    open(&Opening {
        library: order.library,
        model: &files.file,
        model_sha256: sha256,
        provider: settings.execution_provider,
        instances: settings.instances,
        max_rows: settings.max_batch_size,
        buckets: &settings.padding_buckets,
        accelerators: &accelerators,
        cache: order.settings.cache.as_ref(),
    })
}

/// What images are for the model.
fn images(kind: Kind, settings: &ModelSettings, signature: &Signature) -> Result<Images, Failure> {
    Ok(match (kind, settings.preprocessing.preset) {
        (Kind::Timer, Preset::None) => Images::Refused,
        (Kind::Timer, _) => Images::Ignored,
        (Kind::Onnx, _) => Preprocessor::new(settings.preprocessing, signature)?
            .map_or(Images::Refused, |preprocessor| Images::Decoded(Arc::new(preprocessor))),
    })
}
