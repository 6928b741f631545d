//! Drains take one replica at a time, and a replica that is not ready never holds one up.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{common_labels, object_meta, string_map};
use crate::api::labels;
use crate::service::{ValidatedService, names};

/// The budget over every pod of the service.
pub fn build(service: &ValidatedService) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: object_meta(service, names::inference(&service.name), common_labels(service)),
        spec: Some(PodDisruptionBudgetSpec {
            // Not minAvailable: with one replica that would block every drain of its node for ever.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(string_map([(labels::SERVICE, &service.name)])),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use crate::resources::tests::metadata;
    use serde_json::json;

    #[test]
    fn the_whole_object() {
        assert_eq!(
            serde_json::to_value(build(&validated(json!({})))).unwrap(),
            json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                "metadata": metadata("photos-inference"),
                "spec": {
                    "maxUnavailable": 1,
                    "selector": {"matchLabels": {"flotilla.dev/service": "photos"}},
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                },
            })
        );
    }
}
