//! What the cluster has and what of it is taken, read from nodes and pods. Immutable once made.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::product::Product;
use crate::api::labels;

/// The cluster's GPUs at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// False where the operator may not read nodes.
    pub nodes_visible: bool,
    /// One entry a node that has any extended resource, by name.
    pub nodes: Vec<NodeGpus>,
}

/// A node's extended resources.
#[derive(Clone, Debug, Default)]
pub struct NodeGpus {
    /// The node's name.
    pub name: String,
    /// What feature discovery says the GPU is.
    pub product: Option<Product>,
    /// Ready and not cordoned.
    pub schedulable: bool,
    /// Extended resource -> what the node offers.
    pub allocatable: BTreeMap<String, u32>,
    /// Extended resource -> what pods on it hold.
    pub used: BTreeMap<String, u32>,
}

/// What a pod holds of its node's extended resources.
#[derive(Clone, Debug)]
pub struct Held {
    node: String,
    resources: Vec<(String, u32)>,
}

impl Held {
    /// What a pod holds; none where it has no node yet, has ended, or asked for none.
    pub fn by(pod: &Pod) -> Option<Self> {
        let node = pod.spec.as_ref()?.node_name.clone().filter(|_| !is_finished(pod))?;
        let resources: Vec<_> = extended_resources_of(pod).into_iter().filter(|(_, count)| *count > 0).collect();
        (!resources.is_empty()).then_some(Self { node, resources })
    }
}

impl NodeGpus {
    /// What the node offers of `resource`.
    pub fn allocatable(&self, resource: &str) -> u32 {
        self.allocatable.get(resource).copied().unwrap_or(0)
    }

    /// What no pod holds of `resource`.
    pub fn free(&self, resource: &str) -> u32 {
        self.allocatable(resource).saturating_sub(self.used.get(resource).copied().unwrap_or(0))
    }
}

impl Snapshot {
    /// Reads the cluster's state. `nodes` is `None` where the operator may not read them.
    pub fn new<'a>(
        nodes: Option<impl IntoIterator<Item = &'a Node>>,
        held: impl IntoIterator<Item = &'a Held>,
    ) -> Self {
        let Some(nodes) = nodes else { return Self::default() };
        let mut used: HashMap<&str, BTreeMap<String, u32>> = HashMap::new();
        for Held { node, resources } in held {
            let of_node = used.entry(node).or_default();
            for (resource, count) in resources {
                match of_node.get_mut(resource) {
                    Some(sum) => *sum = sum.saturating_add(*count),
                    None => drop(of_node.insert(resource.clone(), *count)),
                }
            }
        }
        let mut nodes: Vec<_> = nodes.into_iter().filter_map(|node| node_gpus(node, &mut used)).collect();
        nodes.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Self { nodes_visible: true, nodes }
    }

    /// What a node's GPU is, as far as that is known.
    pub fn product_of(&self, node: &str) -> Option<&Product> {
        let index = self.nodes.binary_search_by(|known| known.name.as_str().cmp(node)).ok()?;
        self.nodes.get(index)?.product.as_ref()
    }
}

fn node_gpus(node: &Node, used: &mut HashMap<&str, BTreeMap<String, u32>>) -> Option<NodeGpus> {
    let name = node.metadata.name.clone()?;
    let allocatable: BTreeMap<_, _> = extended(node.status.as_ref()?.allocatable.as_ref()?).collect();
    if allocatable.is_empty() {
        return None;
    }
    let label = node.metadata.labels.as_ref().and_then(|labels| labels.get(labels::GPU_PRODUCT));
    Some(NodeGpus {
        product: label.map(|label| Product::parse(label)),
        schedulable: is_schedulable(node),
        used: used.remove(name.as_str()).unwrap_or_default(),
        allocatable,
        name,
    })
}

fn is_schedulable(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && !cordoned
}

fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// What a pod holds of each extended resource: the larger of its containers' sum and its largest init container.
fn extended_resources_of(pod: &Pod) -> BTreeMap<String, u32> {
    let mut sum: BTreeMap<String, u32> = BTreeMap::new();
    let Some(spec) = pod.spec.as_ref() else { return sum };
    let limits = |container: &k8s_openapi::api::core::v1::Container| {
        container.resources.as_ref().and_then(|resources| resources.limits.clone()).unwrap_or_default()
    };
    for container in &spec.containers {
        for (resource, count) in extended(&limits(container)) {
            let total = sum.entry(resource).or_insert(0);
            *total = total.saturating_add(count);
        }
    }
    for container in spec.init_containers.iter().flatten() {
        for (resource, count) in extended(&limits(container)) {
            let total = sum.entry(resource).or_insert(0);
            *total = (*total).max(count);
        }
    }
    sum
}

/// Extended resources have a domain in their name and are whole numbers; Kubernetes' own do not count here.
fn extended(quantities: &BTreeMap<String, Quantity>) -> impl Iterator<Item = (String, u32)> {
    quantities
        .iter()
        .filter(|(name, _)| name.contains('/') && !name.contains("kubernetes.io/"))
        .filter_map(|(name, quantity)| Some((name.clone(), quantity.0.parse().ok()?)))
}
