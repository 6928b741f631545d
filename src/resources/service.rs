//! The Service that clients use. Never with the metrics port: that one is for the operator and Prometheus.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::server_pod::{GRPC_PORT, HTTP_PORT};
use super::{common_labels, object_meta, string_map};
use crate::api::labels;
use crate::service::{ValidatedService, names};

/// The Service in front of every pool of the stable track.
pub fn build(service: &ValidatedService) -> Service {
    Service {
        metadata: object_meta(service, names::inference(&service.name), common_labels(service)),
        spec: Some(ServiceSpec {
            type_: Some(service.service_type.as_str().to_owned()),
            selector: Some(string_map([(labels::SERVICE, &service.name), (labels::TRACK, labels::STABLE)])),
            ports: Some(vec![
                port("http", HTTP_PORT, None),
                // Says to meshes and gateways that this port speaks HTTP/2 without TLS.
                port("grpc", GRPC_PORT, Some("kubernetes.io/h2c")),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: i32, app_protocol: Option<&str>) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        app_protocol: app_protocol.map(str::to_owned),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use crate::resources::tests::metadata;
    use serde_json::json;

    /// If the selector changes, clients of running services lose their answers while pods are replaced.
    #[test]
    fn the_whole_object() {
        assert_eq!(
            serde_json::to_value(build(&validated(json!({})))).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": metadata("photos-inference"),
                "spec": {
                    "type": "ClusterIP",
                    "selector": {"flotilla.dev/service": "photos", "flotilla.dev/track": "stable"},
                    "ports": [
                        {"name": "http", "port": 8000, "protocol": "TCP", "targetPort": "http"},
                        {"name": "grpc", "port": 8001, "protocol": "TCP", "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
                    ],
                },
            })
        );
    }

    #[test]
    fn the_type_is_the_one_asked_for() {
        for asked in ["ClusterIP", "NodePort", "LoadBalancer"] {
            let service = build(&validated(json!({"service": {"type": asked}})));
            assert_eq!(service.spec.unwrap().type_.as_deref(), Some(asked));
        }
    }
}
