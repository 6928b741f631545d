//! What network policies allow, as the Kubernetes API defines it. Pure, so that the policies are tested where no
//! network plugin enforces them. TCP only; a rule's port by name matches nothing, because ours have numbers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

type Labels = BTreeMap<String, String>;

/// Which way a connection is opened, seen from the pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Somebody opens it to the pod.
    Ingress,
    /// The pod opens it.
    Egress,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// A pod of the cluster.
    Pod {
        /// Its namespace.
        namespace: String,
        /// The labels of its namespace.
        namespace_labels: Labels,
        /// Its labels.
        labels: Labels,
    },
    /// Anything else.
    Address(IpAddr),
}

/// Whether a TCP connection between the pod with `labels` in `namespace` and `peer` may be opened. `port` is the port that is
/// connected to. Policies add up; a pod that none selects for the direction is open.
pub fn allows(
    policies: &[NetworkPolicy],
    labels: &Labels,
    namespace: &str,
    direction: Direction,
    port: u16,
    peer: &Peer,
) -> bool {
    let mut isolated = false;
    for policy in policies {
        let Some(spec) = &policy.spec else { continue };
        let selects = policy.metadata.namespace.as_deref() == Some(namespace)
            && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, labels))
            && applies_to(spec.policy_types.as_deref(), spec.egress.is_some(), direction);
        if !selects {
            continue;
        }
        isolated = true;
        let allowed = match direction {
            Direction::Ingress => spec.ingress.iter().flatten().any(|rule| {
                ports_match(rule.ports.as_deref(), port) && peers_match(rule.from.as_deref(), namespace, peer)
            }),
            Direction::Egress => spec.egress.iter().flatten().any(|rule| {
                ports_match(rule.ports.as_deref(), port) && peers_match(rule.to.as_deref(), namespace, peer)
            }),
        };
        if allowed {
            return true;
        }
    }
    !isolated
}

/// Without policyTypes a policy is about ingress, and about egress where it has egress rules.
fn applies_to(types: Option<&[String]>, has_egress: bool, direction: Direction) -> bool {
    match (types, direction) {
        (Some(types), Direction::Ingress) => types.iter().any(|kind| kind == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|kind| kind == "Egress"),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => has_egress,
    }
}

/// An absent or empty list is every port.
fn ports_match(ports: Option<&[NetworkPolicyPort]>, port: u16) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty()
        || ports.iter().any(|rule| {
            let tcp = rule.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            let number = match (&rule.port, rule.end_port) {
                (None, _) => true,
                (Some(IntOrString::Int(first)), last) => (*first..=last.unwrap_or(*first)).contains(&i32::from(port)),
                (Some(IntOrString::String(_)), _) => false,
            };
            tcp && number
        })
}

/// An absent or empty list is everybody.
fn peers_match(peers: Option<&[NetworkPolicyPeer]>, own_namespace: &str, peer: &Peer) -> bool {
    let peers = peers.unwrap_or_default();
    peers.is_empty() || peers.iter().any(|rule| peer_matches(rule, own_namespace, peer))
}

fn peer_matches(rule: &NetworkPolicyPeer, own_namespace: &str, peer: &Peer) -> bool {
    match (peer, &rule.ip_block) {
        (Peer::Address(address), Some(block)) => in_block(block, *address),
        // What an address block says about pods depends on the network plugin, so nobody may rely on it.
        (Peer::Address(_), None) | (Peer::Pod { .. }, Some(_)) => false,
        (Peer::Pod { namespace, namespace_labels, labels }, None) => {
            let namespace_matches = match &rule.namespace_selector {
                Some(selector) => matches(selector, namespace_labels),
                None => namespace == own_namespace,
            };
            namespace_matches && rule.pod_selector.as_ref().is_none_or(|selector| matches(selector, labels))
        }
    }
}

fn in_block(block: &IPBlock, address: IpAddr) -> bool {
    in_cidr(&block.cidr, address) && !block.except.iter().flatten().any(|cidr| in_cidr(cidr, address))
}

fn in_cidr(cidr: &str, address: IpAddr) -> bool {
    let parsed =
        cidr.split_once('/').and_then(|(base, length)| Some((base.parse().ok()?, length.parse::<u32>().ok()?)));
    match (parsed, address) {
        (Some((IpAddr::V4(base), length @ 0..=32)), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (Some((IpAddr::V6(base), length @ 0..=128)), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// A selector without any requirement matches everything.
fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|requirement| requirement_holds(requirement, labels))
}

fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let listed = value.is_some_and(|value| requirement.values.iter().flatten().any(|other| other == value));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(spec: &Value) -> NetworkPolicy {
        serde_json::from_value(json!({"metadata": {"namespace": "default"}, "spec": spec})).unwrap()
    }

    /// Each row is a sentence of the NetworkPolicy reference.
    #[test]
    fn the_rules_of_the_api() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let peer = |namespace: &str| Peer::Pod {
            namespace: namespace.to_owned(),
            namespace_labels: BTreeMap::from([("team".to_owned(), namespace.to_owned())]),
            labels: labels.clone(),
        };
        let address = |text: &str| Peer::Address(text.parse().unwrap());
        let (inward, outward) = (Direction::Ingress, Direction::Egress);
        let block = json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]});
        let team = |operator: &str| {
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [
                {"key": "team", "operator": operator, "values": ["default"]}]}}]}]})
        };
        let table = [
            ("no rule denies", json!({"podSelector": {}}), inward, 80, peer("default"), false),
            ("without types egress stays open", json!({"podSelector": {}}), outward, 80, peer("default"), true),
            (
                "egress rules isolate egress",
                json!({"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}),
                outward,
                80,
                peer("a"),
                false,
            ),
            ("an empty rule allows all", json!({"podSelector": {}, "ingress": [{}]}), inward, 80, address("::1"), true),
            (
                "not selected is open",
                json!({"podSelector": {"matchLabels": {"app": "db"}}}),
                inward,
                80,
                peer("a"),
                true,
            ),
            (
                "pod selector alone is the own namespace",
                json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
                inward,
                80,
                peer("a"),
                false,
            ),
            (
                "pod selector in the own namespace",
                json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
                inward,
                80,
                peer("default"),
                true,
            ),
            (
                "a range of ports",
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 90}]}]}),
                inward,
                85,
                peer("a"),
                true,
            ),
            (
                "beyond the range",
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 90}]}]}),
                inward,
                91,
                peer("a"),
                false,
            ),
            (
                "UDP is not TCP",
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "UDP"}]}]}),
                inward,
                80,
                peer("a"),
                false,
            ),
            ("address in the block", block.clone(), inward, 80, address("10.2.3.4"), true),
            ("address in the exception", block.clone(), inward, 80, address("10.1.3.4"), false),
            ("address outside", block, inward, 80, address("192.0.2.1"), false),
            ("NotIn", team("NotIn"), inward, 80, peer("a"), true),
            ("In", team("In"), inward, 80, peer("a"), false),
            ("DoesNotExist", team("DoesNotExist"), inward, 80, peer("a"), false),
            ("Exists", team("Exists"), inward, 80, peer("a"), true),
        ];
        for (what, spec, direction, port, peer, expected) in table {
            assert_eq!(allows(&[policy(&spec)], &labels, "default", direction, port, &peer), expected, "{what}");
        }
    }
}
