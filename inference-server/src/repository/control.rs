//! Loading and unloading while the server runs, for clients that may.
//!
//! One change at a time: each waits for its turn, so that repeated and concurrent orders end in the state that the last one
//! asked for. A change runs to its end also when the client that asked for it goes away.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{ModelError, Repository, Serving};
use crate::failure::Failure;

/// How long an unload waits for the requests that its model has; they may go on after it.
const UNLOAD_WAIT: Duration = Duration::from_mins(1);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);

impl Repository {
    /// Loads a model, or loads it anew from its files as they are now. An older one answers until the new one is ready.
    /// `config` is a model configuration in JSON that takes the place of the model's `config.pbtxt`.
    ///
    /// # Errors
    /// When clients may not do that, there is no such model, or it can't be loaded.
    pub async fn load(self: &Arc<Self>, name: &str, config: Option<String>) -> Result<(), ModelError> {
        self.check_control(name)?;
        let failed = |reason: String| ModelError::LoadFailed { model: name.to_owned(), reason };
        let permit = self.turn().await?;
        let (done, loaded) = oneshot::channel();
        let (repository, model) = (Arc::clone(self), name.to_owned());
        let work = move || {
            let result = catch_unwind(AssertUnwindSafe(|| repository.load_now(&model, config.as_deref())))
                .unwrap_or_else(|_| {
                    let failure = Failure::internal("loading the model panicked");
                    repository.write().fail(&model, &failure.message);
                    Err(failure)
                });
            drop(permit);
            drop(done.send(result));
        };
        thread::Builder::new()
            .name("loader".to_owned())
            .spawn(work)
            .map_err(|error| failed(format!("the system gives no thread: {error}")))?;
        let result = loaded.await.map_err(|_| failed("the loader ended without a result".to_owned()))?;
        result.map_err(|failure| failed(format!("{}; {}", failure.message, failure.fix)))
    }

    /// Unloads a model: it takes no new requests at once, and is gone when those that it has are answered. Requests that take
    /// longer than a minute go on behind the answer to this call.
    ///
    /// # Errors
    /// When clients may not do that or there is no such model.
    pub async fn unload(self: &Arc<Self>, name: &str) -> Result<(), ModelError> {
        self.check_control(name)?;
        let permit = self.turn().await?;
        let repository = Arc::clone(self);
        let model = name.to_owned();
        let work = async move {
            let servings = repository.write().withdraw(&model);
            let is_alone = wait_until_alone(&servings).await;
            if !is_alone {
                tracing::warn!(model, "unloaded while requests are still running; they are answered");
            }
            drop(servings);
            repository.write().end(&model);
            drop(permit);
        };
        tokio::spawn(work).await.map_err(|_| ModelError::NotReady)
    }

    fn check_control(&self, name: &str) -> Result<(), ModelError> {
        if !self.is_controlled() {
            return Err(ModelError::ControlDisabled);
        }
        if self.source.has(name) || self.read().has(name) { Ok(()) } else { Err(ModelError::Unknown(name.to_owned())) }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, ModelError> {
        Arc::clone(&self.turns).acquire_owned().await.map_err(|_| ModelError::NotReady)
    }
}

/// Waits until nobody else holds the models: every request holds its own for as long as it runs.
async fn wait_until_alone(servings: &[Arc<Serving>]) -> bool {
    let deadline = Instant::now() + UNLOAD_WAIT;
    while servings.iter().any(|serving| Arc::strong_count(serving) > 1) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
