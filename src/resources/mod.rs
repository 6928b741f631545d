//! From a validated service to the Kubernetes objects that make it real. Pure: one builder a file, no client and no clock.
//!
//! Names and selectors depend on (service, pool, track) alone, so no change of the spec needs an object to be re-created,
//! and nothing here reads how many replicas there are: a scaling event never changes a pod template.

pub mod deployment;
pub mod digest;
pub mod fetch;
pub mod network_policy;
pub mod network_policy_check;
pub mod pod_disruption_budget;
pub mod pod_template;
mod restricted;
pub mod server_pod;
pub mod service;
pub mod service_account;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod triton;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;

use crate::api::{InferenceService, labels};
use crate::service::ValidatedService;

/// Everything that a service owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources {
    /// The replicas of the one pool and track that there are.
    pub deployment: Deployment,
    /// How clients reach them.
    pub service: Service,
    /// The identity of the pods; it has no token.
    pub service_account: ServiceAccount,
    /// The server's settings file; immutable, named by its content.
    pub config_map: ConfigMap,
    /// One pod at a time may be evicted.
    pub pod_disruption_budget: PodDisruptionBudget,
    /// Who may talk to the pods.
    pub network_policy: NetworkPolicy,
}

/// What the objects need to know about where the operator runs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Environment {
    /// The operator's own namespace: its pods scrape the metrics port.
    pub operator_namespace: String,
    /// Other namespaces whose pods may scrape it.
    pub metrics_namespaces: Vec<String>,
}

/// How the Deployment may replace pods; the caller knows whether a GPU is free. Exactly one of surge and unavailable is 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RolloutShape {
    /// Pods above the wanted number while a template is replaced: 0 or 1.
    pub max_surge: i32,
    /// Pods below it: 0 or 1.
    pub max_unavailable: i32,
    /// No pod of a new template starts. A new Deployment is paused until its replicas were written once.
    pub paused: bool,
}

impl RolloutShape {
    /// The successor starts before its predecessor stops; needs room for one more.
    pub const SURGE: Self = Self { max_surge: 1, max_unavailable: 0, paused: false };
    /// One stops before its successor starts.
    pub const REPLACE: Self = Self { max_surge: 0, max_unavailable: 1, paused: false };

    /// The same shape, paused or not.
    #[must_use]
    pub const fn with_paused(self, paused: bool) -> Self {
        Self { paused, ..self }
    }
}

/// Why no objects can be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's patch over the pod template changes what it may not.
    #[error("{field}: {problem}")]
    PodTemplate {
        /// Path of the field in the InferenceService.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A value that serde can't write; no field of these objects is of such a kind.
    #[error("the desired objects can't be written as JSON; this is a defect of the operator, please report it")]
    Serialize(#[from] serde_json::Error),
}

impl Error {
    /// The patch may not do this; `field` is a path below spec.runtime.podTemplate.
    fn pod_template(field: impl std::fmt::Display, problem: impl Into<String>) -> Self {
        Self::PodTemplate { field: format!("spec.runtime.podTemplate.{field}"), problem: problem.into() }
    }
}

/// Builds every object that `service` owns.
///
/// # Errors
/// [`Error::PodTemplate`] where spec.runtime.podTemplate changes what it may not.
pub fn build(
    service: &ValidatedService,
    strategy: RolloutShape,
    environment: &Environment,
) -> Result<Resources, Error> {
    let config_map = settings::build(service)?;
    let settings_name = config_map.metadata.name.as_deref().unwrap_or_default();
    Ok(Resources {
        deployment: deployment::build(service, settings_name, strategy)?,
        service: service::build(service),
        service_account: service_account::build(service),
        pod_disruption_budget: pod_disruption_budget::build(service),
        network_policy: network_policy::build(service, environment),
        config_map,
    })
}

/// Metadata of an owned object: deleted with its owner, and known as Flotilla's by its controller reference.
pub fn object_meta(service: &ValidatedService, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(service.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: InferenceService::api_version(&()).into_owned(),
            kind: InferenceService::kind(&()).into_owned(),
            name: service.name.clone(),
            uid: service.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// The labels of every owned object.
pub fn common_labels(service: &ValidatedService) -> BTreeMap<String, String> {
    string_map([
        (labels::NAME, labels::COMPONENT),
        (labels::INSTANCE, &service.name),
        (labels::PART_OF, labels::MANAGER),
        (labels::MANAGED_BY, labels::MANAGER),
    ])
}

fn string_map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
