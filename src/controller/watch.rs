//! Watches that fill the indexes and say which services to look at again. Each backs off by itself and never gives up.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::api::{Api, ApiResource, DynamicObject, TypeMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::cached::CachedObject;
use super::index::{Index, Indexed, ServiceName};
use super::trim;
use crate::api::labels;

/// One watch: where from, what of each object is kept, where to.
pub struct Watch<K, C> {
    /// The API to list and watch.
    pub api: Api<K>,
    /// Selectors.
    pub config: watcher::Config,
    /// The kind, as the index keys it.
    pub kind: &'static str,
    /// The namespace that the API is confined to.
    pub namespace: Option<String>,
    /// What is kept of an object; none where nobody reads any of it.
    pub keep: fn(K) -> Option<C>,
    /// Where it goes.
    pub index: Arc<Index<C>>,
    /// Services to reconcile; `None` for kinds whose changes are noticed at the next visit.
    pub triggers: Option<mpsc::Sender<ServiceName>>,
}

impl<K, C> Watch<K, C>
where
    K: Indexed + kube::Resource + DeserializeOwned + Debug,
    C: Indexed,
{
    /// Watches until the task is dropped.
    pub async fn run(self) {
        let events = watcher::watcher(self.api.clone(), self.config.clone()).default_backoff().boxed();
        follow(events, self.kind, self.namespace.as_deref(), &self.index, self.keep, self.triggers.as_ref()).await;
    }
}

/// Owned objects of one kind: those with our label.
pub struct OwnedWatch {
    /// The API to list and watch.
    pub api: Api<DynamicObject>,
    /// The kind. A watch's objects may come without their own.
    pub resource: ApiResource,
    /// The namespace that the API is confined to.
    pub namespace: Option<String>,
    /// Where the objects go.
    pub index: Arc<Index<CachedObject>>,
    /// Services to reconcile.
    pub triggers: mpsc::Sender<ServiceName>,
}

impl OwnedWatch {
    /// Watches until the task is dropped.
    pub async fn run(self) {
        let config = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
        let types = TypeMeta { api_version: self.resource.api_version.clone(), kind: self.resource.kind.clone() };
        let events = watcher::watcher(self.api, config)
            .default_backoff()
            .map(move |event| event.map(|event| event.modify(|object| object.types = Some(types.clone()))))
            .boxed();
        follow(events, &self.resource.kind, self.namespace.as_deref(), &self.index, trim::owned, Some(&self.triggers))
            .await;
    }
}

/// Keeps `index` in step with `events` and names the services that they concern.
async fn follow<K: Indexed, C: Indexed>(
    mut events: BoxStream<'static, watcher::Result<Event<K>>>,
    kind: &str,
    namespace: Option<&str>,
    index: &Index<C>,
    keep: fn(K) -> Option<C>,
    triggers: Option<&mpsc::Sender<ServiceName>>,
) {
    let trigger = async |service: Option<ServiceName>| {
        if let (Some(triggers), Some(service)) = (triggers, service) {
            // A full channel slows the watch down instead of growing; a closed one means shutdown.
            let _ = triggers.send(service).await;
        }
    };
    let take = |object: K| {
        let (key, service) = (object.key(), object.service());
        let Some(kept) = keep(object) else {
            index.remove(&key);
            return None;
        };
        index.put(kept).then_some(service).flatten()
    };
    let mut listed = HashSet::new();
    let mut synced = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(object.key());
                let service = take(object);
                // The first listing triggers nothing: every service is visited at the start anyway.
                trigger(service.filter(|_| synced)).await;
            }
            Ok(Event::InitDone) => {
                for object in index.retain_listed(kind, namespace, &listed) {
                    trigger(object.service()).await;
                }
                listed = HashSet::new();
                if !synced {
                    synced = true;
                    index.watch_synced();
                }
            }
            Ok(Event::Apply(object)) => trigger(take(object)).await,
            Ok(Event::Delete(object)) => {
                index.remove(&object.key());
                trigger(object.service()).await;
            }
            Err(error) => tracing::warn!(kind, error = %error, "watch failed, retrying"),
        }
    }
}
