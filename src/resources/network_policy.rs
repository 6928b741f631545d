//! Who may talk to the pods: clients to the inference ports, the operator and Prometheus to the metrics port, and the pods to
//! nobody where the model comes with a volume. Where it is fetched, to names and to its source. Policies add up, so a sidecar
//! that needs the network gets a policy of the user's own.
//!
//! A cluster whose network plugin does not enforce policies ignores this object; nothing else here relies on it.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::server_pod::{GRPC_PORT, HTTP_PORT, METRICS_PORT};
use super::{Environment, common_labels, object_meta, string_map};
use crate::api::labels;
use crate::service::{FetchedModel, ModelVolume, ValidatedService, names};

/// The label that the API server puts on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The policy of every pod of the service.
pub fn build(service: &ValidatedService, environment: &Environment) -> NetworkPolicy {
    NetworkPolicy {
        metadata: object_meta(service, names::inference(&service.name), common_labels(service)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(string_map([(labels::SERVICE, &service.name)])),
                ..LabelSelector::default()
            }),
            // Egress is named: without a rule all of it is denied. An empty list would mean the same, but the API server drops it.
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { ports: Some(vec![port(HTTP_PORT), port(GRPC_PORT)]), from: None },
                NetworkPolicyIngressRule { ports: Some(vec![port(METRICS_PORT)]), from: Some(scrapers(environment)) },
            ]),
            egress: match &service.model.source {
                ModelVolume::Fetched(model) => Some(egress(model)),
                ModelVolume::Image { .. } | ModelVolume::Claim { .. } => None,
            },
        }),
    }
}

/// To names, and to everywhere but the nodes' metadata services, on the ports that the source can have. Which those are is in
/// the URI, unless a Secret may name another endpoint: the operator reads no Secret.
fn egress(model: &FetchedModel) -> Vec<NetworkPolicyEgressRule> {
    let block = |cidr: &str, except: &[&str]| NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: Some(except.iter().map(|&cidr| cidr.to_owned()).collect()),
        }),
        ..NetworkPolicyPeer::default()
    };
    let udp = NetworkPolicyPort { protocol: Some("UDP".to_owned()), ..port(53) };
    let any = NetworkPolicyPort { protocol: Some("TCP".to_owned()), ..NetworkPolicyPort::default() };
    let (scheme, rest) = model.uri.split_once("://").unwrap_or_default();
    let own_port = rest.split('/').next().and_then(|host| host.rsplit_once(':')?.1.parse().ok());
    let ports = match own_port {
        Some(own) if scheme == "https" && own != 443 => vec![port(443), port(own)],
        _ if scheme == "https" || model.secret_name.is_none() => vec![port(443)],
        _ => vec![any],
    };
    vec![
        NetworkPolicyEgressRule { ports: Some(vec![udp, port(53)]), to: None },
        NetworkPolicyEgressRule {
            ports: Some(ports),
            to: Some(vec![block("0.0.0.0/0", &["169.254.0.0/16"]), block("::/0", &["fe80::/10", "fd00:ec2::254/128"])]),
        },
    ]
}

fn scrapers(environment: &Environment) -> Vec<NetworkPolicyPeer> {
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(string_map([(NAMESPACE_NAME, &environment.operator_namespace)])),
            ..LabelSelector::default()
        }),
        pod_selector: Some(LabelSelector {
            match_labels: Some(string_map([(labels::NAME, labels::MANAGER)])),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let others = (!environment.metrics_namespaces.is_empty()).then(|| NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: NAMESPACE_NAME.to_owned(),
                operator: "In".to_owned(),
                values: Some(environment.metrics_namespaces.clone()),
            }]),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    });
    [Some(operator), others].into_iter().flatten().collect()
}

fn port(number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use crate::resources::network_policy_check::{Direction, Peer, allows};
    use crate::resources::tests::{environment, metadata};
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn the_whole_object() {
        assert_eq!(
            serde_json::to_value(build(&validated(json!({})), &environment())).unwrap(),
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": metadata("photos-inference"),
                "spec": {
                    "podSelector": {"matchLabels": {"flotilla.dev/service": "photos"}},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        {"ports": [{"port": 8000, "protocol": "TCP"}, {"port": 8001, "protocol": "TCP"}]},
                        {
                            "ports": [{"port": 8002, "protocol": "TCP"}],
                            "from": [
                                {
                                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flotilla-system"}},
                                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "flotilla"}},
                                },
                                {"namespaceSelector": {"matchExpressions": [
                                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring"]},
                                ]}},
                            ],
                        },
                    ],
                },
            })
        );
    }

    /// What a pod may open, by the source of its model.
    #[test]
    fn a_fetched_model_opens_the_way_to_its_source_alone() {
        let store = Peer::Address("203.0.113.7".parse().unwrap());
        let metadata = Peer::Address("169.254.169.254".parse().unwrap());
        let key = json!({"name": "keys"});
        let table = [
            (json!({"uri": "s3://models/clip"}), [true, false, false]),
            (json!({"uri": "s3://models/clip", "secretRef": key}), [true, true, true]),
            (json!({"uri": "https://models.example:8443/m.onnx", "secretRef": key}), [true, true, false]),
            (json!({"uri": "https://models.example/m.onnx"}), [true, false, false]),
            (json!({"uri": "hf://org/repo"}), [true, false, false]),
        ];
        for (uri, expected) in table {
            let service = validated(json!({"model": {"source": {"image": null, "uri": uri}}}));
            let policies = [build(&service, &environment())];
            let pod = crate::service::names::selector("photos", "cpu", "stable");
            let opens = |port, peer: &Peer| allows(&policies, &pod, "default", Direction::Egress, port, peer);
            assert_eq!([443, 8443, 9000].map(|port| opens(port, &store)), expected, "{uri}");
            assert!(opens(53, &store), "names: {uri}");
            assert!(!opens(443, &metadata) && !opens(80, &metadata), "the node's metadata service: {uri}");
        }
    }

    #[test]
    fn no_metrics_namespace_means_the_operator_alone() {
        let environment = Environment { operator_namespace: "flotilla-system".to_owned(), metrics_namespaces: vec![] };
        assert_eq!(scrapers(&environment).len(), 1);
    }

    /// Each row is a promise to the people who run the cluster.
    #[test]
    fn who_reaches_what() {
        let service = validated(json!({}));
        let policies = [build(&service, &environment())];
        let pod = crate::service::names::selector("photos", "cpu", "stable");
        let stranger = crate::service::names::selector("videos", "cpu", "stable");
        let operator = string_map([("app.kubernetes.io/name", "flotilla")]);
        let client = string_map([("app", "shop")]);
        let from = |namespace: &str, labels: &BTreeMap<String, String>| Peer::Pod {
            namespace: namespace.to_owned(),
            namespace_labels: string_map([("kubernetes.io/metadata.name", namespace)]),
            labels: labels.clone(),
        };
        let internet = Peer::Address("203.0.113.7".parse().unwrap());
        let table = [
            ("operator to metrics", &pod, Direction::Ingress, 8002, from("flotilla-system", &operator), true),
            ("Prometheus to metrics", &pod, Direction::Ingress, 8002, from("monitoring", &client), true),
            ("client to metrics", &pod, Direction::Ingress, 8002, from("shop", &client), false),
            ("client beside it to metrics", &pod, Direction::Ingress, 8002, from("default", &client), false),
            (
                "operator's namespace, other pod",
                &pod,
                Direction::Ingress,
                8002,
                from("flotilla-system", &client),
                false,
            ),
            ("operator's label, other namespace", &pod, Direction::Ingress, 8002, from("shop", &operator), false),
            ("internet to metrics", &pod, Direction::Ingress, 8002, internet.clone(), false),
            ("client to http", &pod, Direction::Ingress, 8000, from("shop", &client), true),
            ("client to grpc", &pod, Direction::Ingress, 8001, from("shop", &client), true),
            ("load balancer to http", &pod, Direction::Ingress, 8000, internet.clone(), true),
            ("client to another port", &pod, Direction::Ingress, 22, from("shop", &client), false),
            ("pod to internet", &pod, Direction::Egress, 443, internet.clone(), false),
            ("pod to DNS", &pod, Direction::Egress, 53, from("kube-system", &client), false),
            ("pod to API server", &pod, Direction::Egress, 6443, internet.clone(), false),
            ("another service's pod is not selected", &stranger, Direction::Ingress, 22, internet, true),
        ];
        for (what, labels, direction, port, peer, expected) in table {
            assert_eq!(allows(&policies, labels, "default", direction, port, &peer), expected, "{what}");
        }
    }
}
