//! Names of owned objects. Each carries a suffix: KServe makes a Service with the plain name.

use std::collections::BTreeMap;

use crate::api::labels;

/// Longest name of an InferenceService; with the longest suffix (`-settings-` and 8 digits) it still fits a DNS label of 63.
pub const MAX_SERVICE_NAME: usize = 40;

/// The Deployment of a pool and track.
pub fn deployment(service: &str, pool: &str, track: &str) -> String {
    format!("{service}-{pool}-{track}")
}

/// The service whose Deployment has this name, if one of ours can have it.
pub fn service_of_deployment(name: &str) -> Option<&str> {
    let (rest, track) = name.rsplit_once('-')?;
    let (service, pool) = rest.rsplit_once('-')?;
    (matches!(pool, "gpu" | "cpu") && track == labels::STABLE).then_some(service)
}

/// The Service, ServiceAccount, PodDisruptionBudget and NetworkPolicy.
pub fn inference(service: &str) -> String {
    format!("{service}-inference")
}

/// The ConfigMap of server settings with the given digest (8 hexadecimal digits).
pub fn settings(service: &str, digest: &str) -> String {
    format!("{service}-settings-{digest}")
}

/// The labels that select the pods of a pool and track; they never change.
pub fn selector(service: &str, pool: &str, track: &str) -> BTreeMap<String, String> {
    [(labels::SERVICE, service), (labels::POOL, pool), (labels::TRACK, track)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// [`selector`] as `kubectl` writes it, for /scale.
pub fn selector_text(service: &str, pool: &str, track: &str) -> String {
    selector(service, pool, track).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Where clients inside the cluster reach a service.
pub fn url(service: &str, namespace: &str) -> String {
    format!("http://{}.{namespace}.svc:8000", inference(service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_names_its_service() {
        for pool in ["gpu", "cpu"] {
            assert_eq!(service_of_deployment(&deployment("a-b", pool, labels::STABLE)), Some("a-b"));
        }
        for other in ["a-b-cpu-canary", "a-b-tpu-stable", "cpu-stable", "web", ""] {
            assert_eq!(service_of_deployment(other), None, "{other}");
        }
    }

    #[test]
    fn every_name_fits_a_dns_label_for_the_longest_service() {
        let service = "a".repeat(MAX_SERVICE_NAME);
        for name in [deployment(&service, "gpu", "stable"), inference(&service), settings(&service, "01234567")] {
            assert!(name.len() <= 63, "{name} has {} characters", name.len());
        }
    }

    #[test]
    fn no_owned_name_is_the_plain_name() {
        for name in [deployment("a", "cpu", "stable"), inference("a"), settings("a", "0")] {
            assert_ne!(name, "a");
        }
    }
}
