//! Placement against small clusters, and against an oracle that counts by hand.

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::snapshot::Held;
use super::*;
use crate::fixtures::validated;

fn node(name: &str, product: &str, gpus: u32) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product}},
        "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": gpus.to_string()}, "conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]},
    }))
    .unwrap()
}

fn pod(node: &str, gpus: u32, phase: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}}}]},
        "status": {"phase": phase},
    }))
    .unwrap()
}

fn place_on(nodes: &[Node], pods: &[Pod], gpu: serde_json::Value) -> Placement {
    let held: Vec<Held> = pods.iter().filter_map(Held::by).collect();
    place(&Snapshot::new(Some(nodes), &held), &validated(json!({"placement": {"gpu": gpu}})))
}

#[test]
fn a_cpu_service_needs_no_node() {
    let placement = place(&Snapshot::default(), &validated(json!({})));
    assert_eq!((placement.topology, placement.verdict, placement.free_replicas), (Topology::Cpu, Verdict::Fits, None));
}

#[test]
fn free_gpus_are_those_that_no_running_pod_holds() {
    let nodes = [node("a", "NVIDIA-L4", 4), node("b", "NVIDIA-L4", 2)];
    let pods = [pod("a", 1, "Running"), pod("a", 2, "Succeeded"), pod("b", 2, "Pending")];
    let placement = place_on(&nodes, &pods, json!({"countPerReplica": 1}));
    assert_eq!(placement.free_replicas, Some(3));
    assert_eq!(placement.topology, Topology::SingleGpu);
}

#[test]
fn a_replica_of_two_gpus_can_not_be_spread_over_nodes() {
    let nodes = [node("a", "NVIDIA-L4", 3), node("b", "NVIDIA-L4", 3)];
    let placement = place_on(&nodes, &[], json!({"countPerReplica": 2}));
    assert_eq!((placement.free_replicas, placement.topology), (Some(2), Topology::MultiGpu));
}

#[test]
fn what_does_not_fit_says_why() {
    let nodes = [node("a", "NVIDIA-L4", 2)];
    let cases = [
        (json!({"resourceName": "amd.com/gpu"}), "NoSuchResource"),
        (json!({"products": ["NVIDIA-H100"]}), "NoSuchProduct"),
        (json!({"countPerReplica": 4}), "TooManyPerReplica"),
        (json!({"products": ["NVIDIA-L4"]}), "Fits"),
    ];
    for (gpu, reason) in cases {
        assert_eq!(place_on(&nodes, &[], gpu.clone()).verdict.reason(), reason, "{gpu}");
    }
}

#[test]
fn cordoned_nodes_do_not_count_and_shared_ones_are_named_so() {
    let mut cordoned = node("a", "NVIDIA-L4", 8);
    cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
    let placement = place_on(&[cordoned, node("b", "NVIDIA-L4-SHARED", 4)], &[], json!({"products": ["NVIDIA-L4"]}));
    assert_eq!((placement.free_replicas, placement.sharing), (Some(4), Some(Sharing::Shared)));
}

#[test]
fn without_nodes_to_see_the_scheduler_decides() {
    let placement = place(&Snapshot::default(), &validated(json!({"placement": {"gpu": {"countPerReplica": 1}}})));
    assert_eq!(placement.verdict, Verdict::NodesNotVisible);
}

proptest! {
    /// Oracle: hand out replicas one by one, first fit, until none fits.
    #[test]
    fn free_replicas_agree_with_handing_them_out(sizes in prop::collection::vec((0_u32..9, 0_u32..9), 0..6), count in 1_u32..5) {
        let nodes: Vec<_> = sizes.iter().enumerate().map(|(i, (gpus, _))| node(&i.to_string(), "NVIDIA-L4", *gpus)).collect();
        let pods: Vec<_> = sizes.iter().enumerate().map(|(i, (gpus, used))| pod(&i.to_string(), (*used).min(*gpus), "Running")).collect();
        let mut free: Vec<u32> = sizes.iter().map(|(gpus, used)| gpus - (*used).min(*gpus)).collect();
        let mut replicas = 0;
        while let Some(node) = free.iter_mut().find(|free| **free >= count) {
            *node -= count;
            replicas += 1;
        }
        prop_assert_eq!(place_on(&nodes, &pods, json!({"countPerReplica": count})).free_replicas, Some(replicas));
    }
}
