//! The models of a server, by name and version, and the life of each.
//!
//! A protocol asks for a model by name and gets a [`Serving`], which it holds for as long as its request runs.

mod load;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::SystemTime,
};

pub use self::load::load;
use crate::{
    engine::Engine,
    metrics::{self, Metrics},
};

/// A model that is ready.
pub struct Serving {
    /// The engine.
    pub engine: Engine,
    /// The name that clients put in the path.
    pub name: String,
    /// The version, a number in text.
    pub version: String,
    /// The model's metrics; [`Engine::metrics`] brings their gauges up to date.
    pub metrics: Arc<Metrics>,
    /// The hash of the model's files.
    pub model_sha256: String,
    /// The execution provider that really runs.
    pub provider: &'static str,
    /// When it became ready.
    pub loaded_at: SystemTime,
}

/// Where a model is in its life, in the words of the repository index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Ready,
    /// It does not, and nothing is under way.
    Unavailable,
    /// Its files are being read, its sessions made, its batches tried.
    Loading,
    /// It takes no new requests and finishes those that it has.
    Unloading,
}

impl State {
    /// As the index spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Unavailable => "UNAVAILABLE",
            Self::Loading => "LOADING",
            Self::Unloading => "UNLOADING",
        }
    }
}

/// One line of the repository index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model.
    pub name: String,
    /// The version; empty while it is not known.
    pub version: String,
    /// Where it is in its life.
    pub state: State,
    /// Why it is not ready; empty when there is nothing to say.
    pub reason: String,
}

/// Why a request's model can't answer it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is no model of this name.
    #[error("Request for unknown model: '{0}' is not found")]
    Unknown(String),
    /// The model is there without this version.
    #[error("Request for unknown model: '{0}' version {1} is not found")]
    UnknownVersion(String, String),
    /// It loads, or could not be loaded.
    #[error("the model is not ready")]
    NotReady,
}

/// All models of a server.
pub struct Repository {
    started: SystemTime,
    models: RwLock<BTreeMap<String, Slot>>,
}

struct Slot {
    state: State,
    reason: String,
    version: String,
    metrics: Option<Arc<Metrics>>,
    serving: Option<Arc<Serving>>,
}

impl Repository {
    /// Models that are about to be loaded.
    pub fn new(names: impl IntoIterator<Item = String>) -> Arc<Self> {
        let loading = || Slot {
            state: State::Loading,
            reason: String::new(),
            version: String::new(),
            metrics: None,
            serving: None,
        };
        let models = names.into_iter().map(|name| (name, loading())).collect();
        Arc::new(Self { started: SystemTime::now(), models: RwLock::new(models) })
    }

    /// The model that answers a request; without a version the newest.
    ///
    /// # Errors
    /// When it is not there or not ready.
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<Serving>, ModelError> {
        let models = self.read();
        let slot = models.get(name).ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
        let serving = slot.serving.as_ref().ok_or(ModelError::NotReady)?;
        match version {
            Some(version) if version != serving.version => {
                Err(ModelError::UnknownVersion(name.to_owned(), version.to_owned()))
            }
            _ => Ok(Arc::clone(serving)),
        }
    }

    /// All models and what they are at.
    pub fn index(&self) -> Vec<IndexEntry> {
        self.read()
            .iter()
            .map(|(name, slot)| IndexEntry {
                name: name.clone(),
                version: slot.version.clone(),
                state: slot.state,
                reason: slot.reason.clone(),
            })
            .collect()
    }

    /// All models that are ready.
    pub fn servings(&self) -> Vec<Arc<Serving>> {
        self.read().values().filter_map(|slot| slot.serving.clone()).collect()
    }

    /// Whether every model is ready.
    pub fn is_ready(&self) -> bool {
        self.read().values().all(|slot| slot.state == State::Ready) && self.is_live()
    }

    /// Whether no device hangs and no thread is gone.
    pub fn is_live(&self) -> bool {
        self.read().values().filter_map(|slot| slot.serving.as_ref()).all(|serving| serving.engine.is_alive())
    }

    /// From now on no request begins.
    pub fn drain(&self) {
        for serving in self.servings() {
            serving.engine.drain();
        }
    }

    /// The metrics of the process and of all models, in the text format.
    pub fn metrics_page(&self) -> String {
        let shown: Vec<Arc<Metrics>> = self
            .read()
            .values()
            .filter_map(|slot| {
                if let Some(serving) = &slot.serving {
                    serving.engine.metrics();
                }
                slot.metrics.clone()
            })
            .collect();
        metrics::process_page(self.started) + &metrics::render(shown.iter().map(AsRef::as_ref))
    }

    /// Shows the metrics of a model whose version is known, before it is ready.
    fn announce(&self, name: &str, version: &str, metrics: Arc<Metrics>) {
        if let Some(slot) = self.write().get_mut(name) {
            version.clone_into(&mut slot.version);
            slot.metrics = Some(metrics);
        }
    }

    /// A model that is ready from now on.
    fn publish(&self, serving: Serving) {
        if let Some(slot) = self.write().get_mut(&serving.name) {
            slot.state = State::Ready;
            slot.reason.clear();
            slot.serving = Some(Arc::new(serving));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Slot>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Slot>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }
}
