//! The pods' identity. It has no token: a model server has nothing to ask of the Kubernetes API.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{common_labels, object_meta};
use crate::service::{ValidatedService, names};

/// The service account of every pod of the service.
pub fn build(service: &ValidatedService) -> ServiceAccount {
    ServiceAccount {
        metadata: object_meta(service, names::inference(&service.name), common_labels(service)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
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
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": metadata("photos-inference"),
                "automountServiceAccountToken": false,
            })
        );
    }
}
