//! Apply step (client): server-side apply of what differs from the live objects, and nothing else; then pruning.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, TypeMeta};
use kube::{Api, Resource};
use serde::Serialize;
use serde_json::Value;

use super::compare::contains;
use super::context::Context;
use super::error::Error;
use super::index::{ObjectKey, ServiceName};
use crate::api::{APPLY_MANAGER, labels};
use crate::resources::digest;
use crate::service::ValidatedService;

/// A name that something else holds.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} exists and {state}")]
pub struct NameConflict {
    kind: String,
    name: String,
    state: OwnerState,
}

#[derive(Debug, thiserror::Error)]
enum OwnerState {
    #[error("belongs to an InferenceService of the same name that was deleted; waiting until it is collected")]
    Predecessor,
    #[error("does not belong to this InferenceService; rename or remove it, or rename the InferenceService")]
    Stranger,
}

impl NameConflict {
    /// It goes away by itself.
    pub fn is_passing(&self) -> bool {
        matches!(self.state, OwnerState::Predecessor)
    }

    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        if self.is_passing() { "WaitingForDeletion" } else { "NameConflict" }
    }
}

/// One object that is wanted.
pub struct Wanted {
    /// Its API.
    pub resource: ApiResource,
    /// The object, without what the apply step adds.
    pub object: Value,
    /// Where it is in the index.
    pub key: ObjectKey,
}

impl Wanted {
    /// Takes a built object.
    ///
    /// # Errors
    /// The object can't be serialised.
    pub fn new<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Self, Error> {
        let resource = ApiResource::erase::<K>(&());
        let mut value =
            serde_json::to_value(object).map_err(|source| Error::Serialise { kind: kind_of::<K>(), source })?;
        value["apiVersion"] = resource.api_version.clone().into();
        value["kind"] = resource.kind.clone().into();
        let key = ObjectKey {
            kind: resource.kind.clone(),
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
        };
        Ok(Self { resource, object: value, key })
    }

    /// The object with the digest of itself, so that a field which is no longer wanted is noticed.
    fn sealed(&self) -> Value {
        let mut sealed = self.object.clone();
        sealed["metadata"]["annotations"][labels::APPLIED_DIGEST] = digest::of(&self.object).into();
        sealed
    }
}

fn kind_of<K>() -> &'static str {
    std::any::type_name::<K>().rsplit("::").next().unwrap_or("object")
}

/// Applies an object if the live one differs. Returns the live object as it is then, and whether it was written.
///
/// # Errors
/// [`NameConflict`] where the name is taken, otherwise what the API server said.
pub async fn apply(ctx: &Context, service: &ValidatedService, wanted: &Wanted) -> Result<(DynamicObject, bool), Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &wanted.key.namespace, &wanted.resource);
    let sealed = wanted.sealed();
    let live = match ctx.owned.get(&wanted.key) {
        Some(live) => Some(live.object().map_err(unreadable)?),
        // Not in the cache: ours to create, unless a stranger without our label has the name.
        None => ctx.read(format!("get {} {}", wanted.key.kind, wanted.key.name), api.get_opt(&wanted.key.name)).await?,
    };
    let mut body = sealed.clone();
    if let Some(live) = &live {
        check_owner(service, wanted, live)?;
        if contains(&as_value(live, &wanted.resource)?, &sealed) {
            return Ok((live.clone(), false));
        }
        body["metadata"]["uid"] = live.metadata.uid.clone().unwrap_or_default().into();
    }
    let params =
        PatchParams { force: live.is_some(), field_manager: Some(APPLY_MANAGER.to_owned()), ..PatchParams::default() };
    let action = format!("apply {} {}", wanted.key.kind, wanted.key.name);
    let mut applied = ctx
        .write(&action, &wanted.key.kind, "apply", api.patch(&wanted.key.name, &params, &Patch::Apply(&body)))
        .await?;
    applied.types =
        Some(TypeMeta { api_version: wanted.resource.api_version.clone(), kind: wanted.resource.kind.clone() });
    let cached = super::trim::owned(applied.clone());
    if let Some(cached) = cached {
        ctx.owned.put(cached);
    }
    Ok((applied, true))
}

/// The live object must be controlled by this very InferenceService, not by one of the same name before it.
fn check_owner(service: &ValidatedService, wanted: &Wanted, live: &DynamicObject) -> Result<(), NameConflict> {
    let controller = live.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let state = match controller {
        Some(owner) if owner.uid == service.uid => return Ok(()),
        Some(owner)
            if owner.kind == "InferenceService"
                && owner.name == service.name
                && owner.api_version.starts_with(crate::api::GROUP) =>
        {
            OwnerState::Predecessor
        }
        _ => OwnerState::Stranger,
    };
    Err(NameConflict { kind: wanted.key.kind.clone(), name: wanted.key.name.clone(), state })
}

/// Whether the live object carries everything that was applied.
///
/// # Errors
/// The live object can't be serialised.
pub fn is_settled(live: &DynamicObject, wanted: &Wanted) -> Result<bool, Error> {
    Ok(contains(&as_value(live, &wanted.resource)?, &wanted.object))
}

fn unreadable(source: serde_json::Error) -> Error {
    Error::Serialise { kind: "live object", source }
}

fn as_value(object: &DynamicObject, resource: &ApiResource) -> Result<Value, Error> {
    let mut value = serde_json::to_value(object).map_err(|source| Error::Serialise { kind: "live object", source })?;
    value["apiVersion"] = resource.api_version.clone().into();
    value["kind"] = resource.kind.clone().into();
    Ok(value)
}

/// Deletes what belongs to the service and is wanted no longer.
///
/// # Errors
/// What the API server said.
pub async fn prune(
    ctx: &Context,
    service: &ValidatedService,
    resources: &[ApiResource],
    is_wanted: impl Fn(&DynamicObject) -> bool,
) -> Result<(), Error> {
    let name = ServiceName { namespace: service.namespace.clone(), name: service.name.clone() };
    for cached in ctx.owned.of_service(&name) {
        let object = cached.object().map_err(unreadable)?;
        let controlled = object
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.controller == Some(true) && owner.uid == service.uid);
        if !controlled || object.metadata.deletion_timestamp.is_some() || is_wanted(&object) {
            continue;
        }
        let Some(resource) =
            resources.iter().find(|resource| object.types.as_ref().is_some_and(|types| types.kind == resource.kind))
        else {
            continue;
        };
        let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &service.namespace, resource);
        let object_name = object.metadata.name.clone().unwrap_or_default();
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: object.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::background()
        };
        let action = format!("delete {} {object_name}", resource.kind);
        match ctx.write(&action, &resource.kind, "delete", api.delete(&object_name, &params)).await {
            Ok(_) => {}
            Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 404 || status.code == 409) =>
                {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
