//! The shell around the pure folders: observe -> validate -> decide -> build -> apply -> scale -> status, one file a step.

pub mod apply;
pub mod cached;
pub mod compare;
pub mod conditions;
pub mod context;
pub mod converge;
pub mod deletion_cost;
pub mod error;
pub mod index;
pub mod lease;
pub mod leaving;
pub mod observe;
mod order;
pub mod pods;
pub mod publish;
pub mod reconcile;
pub mod rollout;
pub mod scale;
pub mod setup;
pub mod status;
#[cfg(test)]
mod tests;
pub mod trim;
pub mod watch;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered};
use kube::runtime::controller::{self, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use context::Context;
use index::ServiceName;
use reconcile::{Guarded, error_policy, reconcile};

/// Services waiting to be looked at after an event of something they own; beyond it the watches wait.
pub const TRIGGER_QUEUE: usize = 1024;

/// One namespace, or all of them, with the triggers that concern it.
pub struct Scope {
    /// `None` for all namespaces.
    pub namespace: Option<String>,
    /// Services that some watch wants to be looked at.
    pub triggers: mpsc::Receiver<ServiceName>,
}

/// Reconciles until `shutdown`, then lets the visits that are under way end.
pub async fn run(ctx: Arc<Context>, scopes: Vec<Scope>, concurrency: u16, shutdown: CancellationToken) {
    while !is_synced(&ctx) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    tracing::info!("caches are filled, reconciling");
    scopes
        .into_iter()
        .map(|scope| {
            let api: Api<Guarded> = match &scope.namespace {
                Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
                None => Api::all(ctx.client.clone()),
            };
            let triggers = stream::unfold(scope.triggers, |mut triggers| async {
                let service = triggers.recv().await?;
                Some((ObjectRef::new(&service.name).within(&service.namespace), triggers))
            });
            let writer = reflector::store::Writer::default();
            let (store, shared) = (writer.as_reader(), Arc::clone(&ctx));
            let services = watcher(api, watcher::Config::default())
                // Nobody reads them, and they are larger than the rest of the object.
                .modify(|service: &mut Guarded| service.meta_mut().managed_fields = None)
                .reflect(writer)
                .applied_objects();
            let controller = Controller::for_stream(services, store.clone());
            controller
                .with_config(Config::default().concurrency(concurrency))
                .reconcile_on(triggers)
                .graceful_shutdown_on(shutdown.clone().cancelled_owned())
                .run(reconcile, error_policy, Arc::clone(&ctx))
                .for_each(move |outcome| {
                    // Without a finalizer, a deleted service is simply no longer there at its next visit.
                    if let Err(controller::Error::ObjectNotFound(gone)) = outcome {
                        let service = ServiceName { namespace: gone.namespace.unwrap_or_default(), name: gone.name };
                        reconcile::forget(&shared, &service);
                    }
                    shared.metrics.services.set(i64::try_from(store.len()).unwrap_or(i64::MAX));
                    ready(())
                })
        })
        .collect::<FuturesUnordered<_>>()
        .for_each(|()| ready(()))
        .await;
}

fn is_synced(ctx: &Context) -> bool {
    ctx.owned.is_synced()
        && ctx.pods.is_synced()
        && ctx.autoscalers.is_synced()
        && ctx.nodes.as_ref().is_none_or(|nodes| nodes.is_synced())
}
