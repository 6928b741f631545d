//! Which models there are and what each is at. Pure: no file, no clock, no thread.

use std::{collections::BTreeMap, sync::Arc};

use super::{ModelError, Serving};
use crate::metrics::Metrics;

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

/// All models by name.
#[derive(Default)]
pub(super) struct Shelf {
    models: BTreeMap<String, Model>,
}

struct Model {
    state: State,
    /// Why the last load failed, or that it was unloaded.
    reason: String,
    /// Whether the server is ready only with this model.
    is_required: bool,
    /// Those that answer, by version.
    servings: BTreeMap<u64, Arc<Serving>>,
    /// Those that are on the metrics page, which shows a model before it is ready.
    metrics: BTreeMap<u64, Arc<Metrics>>,
}

impl Shelf {
    /// A model without which the server is not ready.
    pub(super) fn require(&mut self, name: &str) {
        self.model(name).is_required = true;
    }

    /// The models without which the server is not ready.
    pub(super) fn required(&self) -> Vec<String> {
        self.models.iter().filter(|(_, model)| model.is_required).map(|(name, _)| name.clone()).collect()
    }

    /// Whether a name has a place.
    pub(super) fn has(&self, name: &str) -> bool {
        self.models.contains_key(name)
    }

    /// The model that answers a request.
    pub(super) fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Serving>, ModelError> {
        let model = self.models.get(name).ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
        let (_, newest) = model.servings.last_key_value().ok_or(ModelError::NotReady)?;
        let Some(version) = version else { return Ok(Arc::clone(newest)) };
        let number = version.parse::<u64>().ok();
        number
            .and_then(|number| model.servings.get(&number))
            .cloned()
            .ok_or_else(|| ModelError::UnknownVersion(name.to_owned(), version.to_owned()))
    }

    /// The versions of a model that answer, oldest first.
    pub(super) fn versions(&self, name: &str) -> Vec<String> {
        let servings = self.models.get(name).into_iter().flat_map(|model| model.servings.values());
        servings.map(|serving| serving.version.clone()).collect()
    }

    /// All models that answer.
    pub(super) fn servings(&self) -> impl Iterator<Item = &Arc<Serving>> {
        self.models.values().flat_map(|model| model.servings.values())
    }

    /// All metrics to show.
    pub(super) fn metrics(&self) -> impl Iterator<Item = &Arc<Metrics>> {
        self.models.values().flat_map(|model| model.metrics.values())
    }

    /// Whether all that is required answers.
    pub(super) fn is_ready(&self) -> bool {
        self.models.values().all(|model| !model.is_required || !model.servings.is_empty())
    }

    /// What each model and version is at, and `others` that nobody has asked for.
    pub(super) fn index(&self, others: &[String]) -> Vec<IndexEntry> {
        let mut entries = Vec::new();
        for (name, model) in &self.models {
            let entry = |version: String, state: State, reason: &str| IndexEntry {
                name: name.clone(),
                version,
                state,
                reason: reason.to_owned(),
            };
            if model.servings.is_empty() {
                let version = model.metrics.last_key_value().map(|(version, _)| version.to_string());
                entries.push(entry(version.unwrap_or_default(), model.state, &model.reason));
            }
            // A model that could not be loaded anew still answers, and the reason says that it is the older one.
            entries.extend(
                model.servings.values().map(|serving| entry(serving.version.clone(), State::Ready, &model.reason)),
            );
        }
        entries.extend(others.iter().filter(|name| !self.models.contains_key(*name)).map(|name| IndexEntry {
            name: name.clone(),
            version: String::new(),
            state: State::Unavailable,
            reason: String::new(),
        }));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// A load begins.
    pub(super) fn begin(&mut self, name: &str) {
        let model = self.model(name);
        model.state = State::Loading;
        model.reason.clear();
    }

    /// The version being loaded is known; its metrics are shown unless an older one's are.
    pub(super) fn announce(&mut self, name: &str, version: u64, metrics: &Arc<Metrics>) {
        let model = self.model(name);
        if model.servings.is_empty() {
            model.metrics.insert(version, Arc::clone(metrics));
        }
    }

    /// The load has worked: these answer, and no others.
    pub(super) fn publish(&mut self, name: &str, servings: Vec<(u64, Serving)>) {
        let model = self.model(name);
        model.state = State::Ready;
        model.reason.clear();
        model.metrics = servings.iter().map(|(version, serving)| (*version, Arc::clone(&serving.metrics))).collect();
        model.servings = servings.into_iter().map(|(version, serving)| (version, Arc::new(serving))).collect();
    }

    /// The load has failed.
    pub(super) fn fail(&mut self, name: &str, reason: &str) {
        let model = self.model(name);
        reason.clone_into(&mut model.reason);
        if model.servings.is_empty() {
            model.state = State::Unavailable;
            model.metrics.clear();
        } else {
            model.state = State::Ready;
        }
    }

    /// Takes a model away from new requests and gives it to the caller, who waits for those that it has.
    pub(super) fn withdraw(&mut self, name: &str) -> Vec<Arc<Serving>> {
        let Some(model) = self.models.get_mut(name) else { return Vec::new() };
        model.is_required = false;
        model.state = State::Unloading;
        model.reason.clear();
        model.metrics.clear();
        std::mem::take(&mut model.servings).into_values().collect()
    }

    /// A withdrawn model has ended.
    pub(super) fn end(&mut self, name: &str) {
        let model = self.model(name);
        if model.state == State::Unloading {
            model.state = State::Unavailable;
            "unloaded".clone_into(&mut model.reason);
        }
    }

    fn model(&mut self, name: &str) -> &mut Model {
        self.models.entry(name.to_owned()).or_insert_with(|| Model {
            state: State::Loading,
            reason: String::new(),
            is_required: false,
            servings: BTreeMap::new(),
            metrics: BTreeMap::new(),
        })
    }
}
