//! The models of a server, by name and version, and the life of each.
//!
//! A protocol asks for a model by name and gets a [`Serving`], which it holds for as long as its request runs; so a model that
//! is unloaded or replaced ends when its last request has. In reading order:
//!
//! - [`Repository`]: what protocols ask.
//! - `shelf`: which models there are and what they are at. Pure.
//! - `source`: the folders of models, and their versions.
//! - `load`: from a model's files to a model that answers; `report` says what that took.
//! - `control`: loading and unloading while the server runs.

mod control;
mod load;
mod report;
mod shelf;
mod source;

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::Semaphore;

pub use self::{
    report::LoadReport,
    shelf::{IndexEntry, State},
};
use self::{shelf::Shelf, source::Source};
use crate::{
    config::ModelConfig,
    engine::Engine,
    failure::Failure,
    gpu,
    metrics::{self, Metrics, host::Host},
    settings::{ALL_MODELS, ControlMode, Settings},
};

/// A model that is ready.
pub struct Serving {
    /// The engine.
    pub engine: Engine,
    /// The name that clients put in the path.
    pub name: String,
    /// The version, a number in text.
    pub version: String,
    /// The configuration that clients are shown, with everything filled in.
    pub config: ModelConfig,
    /// The model's metrics; [`Engine::metrics`] brings their gauges up to date.
    pub metrics: Arc<Metrics>,
    /// The hash of the model's files.
    pub model_sha256: String,
    /// The execution provider that really runs.
    pub provider: &'static str,
    /// When it became ready.
    pub loaded_at: SystemTime,
    /// What the time until then was spent on.
    pub report: LoadReport,
}

/// Why a model can't answer a request, or can't be loaded or unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is no model of this name.
    #[error("Request for unknown model: '{0}' is not found")]
    Unknown(String),
    /// The model is there without this version.
    #[error("Request for unknown model: '{0}' version {1} is not found")]
    UnknownVersion(String, String),
    /// It loads, could not be loaded, or was unloaded.
    #[error("the model is not ready")]
    NotReady,
    /// Clients may not load and unload here.
    #[error("explicit model load / unload is not allowed: start the server with --model-control-mode explicit")]
    ControlDisabled,
    /// The load that a client asked for failed.
    #[error("failed to load '{model}': {reason}")]
    LoadFailed {
        /// The model.
        model: String,
        /// Why.
        reason: String,
    },
}

/// All models of a server.
pub struct Repository {
    source: Source,
    settings: Settings,
    library: Option<PathBuf>,
    started: SystemTime,
    shelf: RwLock<Shelf>,
    /// One model is loaded or unloaded at a time: a load takes all cores, and memory that another could need. No client has a
    /// turn before the models of the start have had theirs.
    turns: Arc<Semaphore>,
    is_draining: AtomicBool,
    host: Host,
    gpus: gpu::Page,
}

impl Repository {
    /// The models that the settings name, about to be loaded.
    ///
    /// # Errors
    /// When the repository can't be read, or has not a model that it should have.
    pub fn open(settings: Settings, library: Option<PathBuf>) -> Result<Arc<Self>, Failure> {
        let source = Source::new(&settings);
        let is_chosen = settings.model_control_mode == ControlMode::Explicit && settings.model.is_none();
        let wanted = if is_chosen && !settings.load_models.iter().any(|name| name == ALL_MODELS) {
            settings.load_models.clone()
        } else {
            source.names()?
        };
        if wanted.is_empty() && !is_chosen {
            return Err(source.is_empty());
        }
        let mut shelf = Shelf::default();
        for name in &wanted {
            shelf.require(name);
        }
        Ok(Arc::new(Self {
            source,
            settings,
            library,
            started: SystemTime::now(),
            shelf: RwLock::new(shelf),
            turns: Arc::new(Semaphore::new(0)),
            is_draining: AtomicBool::new(false),
            host: Host::new(),
            gpus: gpu::start(),
        }))
    }

    /// The model that answers a request; without a version the newest.
    ///
    /// # Errors
    /// When it is not there or not ready.
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<Serving>, ModelError> {
        self.read().find(name, version)
    }

    /// All models and what they are at.
    pub fn index(&self) -> Vec<IndexEntry> {
        let mut names = Vec::new();
        // Under explicit control there are models that nobody has asked for yet.
        if self.settings.model_control_mode == ControlMode::Explicit {
            names = self.source.names().unwrap_or_else(|failure| {
                tracing::warn!(%failure, "the index leaves out what is not loaded");
                Vec::new()
            });
        }
        self.read().index(&names)
    }

    /// The versions of a model that are ready, oldest first.
    pub fn versions(&self, name: &str) -> Vec<String> {
        self.read().versions(name)
    }

    /// All models that are ready.
    pub fn servings(&self) -> Vec<Arc<Serving>> {
        self.read().servings().cloned().collect()
    }

    /// Whether every model that was to be loaded at the start is ready, or was unloaded on purpose.
    pub fn is_ready(&self) -> bool {
        self.read().is_ready() && self.is_live()
    }

    /// Whether no device hangs and no thread is gone.
    pub fn is_live(&self) -> bool {
        self.read().servings().all(|serving| serving.engine.is_alive())
    }

    /// Whether clients may load and unload models.
    pub fn is_controlled(&self) -> bool {
        self.settings.model_control_mode == ControlMode::Explicit
    }

    /// From now on no request begins.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
        for serving in self.servings() {
            serving.engine.drain();
        }
    }

    /// The metrics of the process and of all models, in the text format.
    pub fn metrics_page(&self) -> String {
        let shown: Vec<Arc<Metrics>> = {
            let shelf = self.read();
            for serving in shelf.servings() {
                serving.engine.metrics();
            }
            shelf.metrics().cloned().collect()
        };
        metrics::process_page(self.started)
            + &self.host.page()
            + &self.gpus.text()
            + &metrics::render(shown.iter().map(AsRef::as_ref))
    }

    /// Loads the models of the start, one after the other. One that fails does not end the others, but at least one must be ready.
    ///
    /// # Errors
    /// When none could be loaded, with the reason of the first.
    pub fn load_all(&self) -> Result<(), Failure> {
        let mut first_failure = None;
        let names = self.read().required();
        let count = names.len();
        for name in names {
            if let Err(failure) = self.load_now(&name, None) {
                if count > 1 {
                    tracing::error!(model = name, reason = ?failure.reason, fix = failure.fix, "{}", failure.message);
                }
                first_failure.get_or_insert((name, failure));
            }
        }
        self.turns.add_permits(1);
        if first_failure.is_none() {
            let seconds = self.started.elapsed().unwrap_or_default().as_secs_f64();
            tracing::info!(models = count, seconds, "all models are ready");
        }
        match first_failure {
            Some((_, failure)) if count == 1 => Err(failure),
            Some((name, failure)) if self.read().servings().next().is_none() => Err(Failure {
                message: format!("none of {count} models could be loaded; '{name}': {}", failure.message),
                ..failure
            }),
            _ => Ok(()),
        }
    }

    /// Loads a model or loads it anew, and shows what came of it. An older one answers until the new one is ready.
    fn load_now(&self, name: &str, config: Option<&str>) -> Result<(), Failure> {
        let announce = |version: u64, metrics: &Arc<Metrics>| self.write().announce(name, version, metrics);
        self.write().begin(name);
        let result = self.source.find(name).and_then(|found| {
            let library = self.library.as_deref();
            let settings = &self.settings;
            let stop = &self.is_draining;
            load::load(&load::Order { name, found: &found, settings, library, config, stop }, announce)
        });
        match result {
            Ok(servings) => {
                if self.is_draining.load(Ordering::Acquire) {
                    for (_, serving) in &servings {
                        serving.engine.drain();
                    }
                }
                self.write().publish(name, servings);
                Ok(())
            }
            Err(failure) => {
                self.write().fail(name, &failure.message);
                Err(failure)
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
