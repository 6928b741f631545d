//! The test cluster: its API server, its node's address.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use kube::api::{GetParams, ListParams};
use kube::config::KubeConfigOptions;
use kube::core::Request;
use kube::{Api, Client, Config, ResourceExt as _};

use crate::Outcome;

/// The cluster of `kind/up`. Nothing else is ever talked to.
#[derive(Clone)]
pub struct Cluster {
    /// Its API server.
    pub client: Client,
    /// Its only node's name, which is its container's too.
    pub node: String,
    /// The node's address, on which node ports are reached from the host.
    pub address: IpAddr,
    /// The context in the user's kubeconfig.
    pub context: String,
}

impl Cluster {
    /// Connects by the kubeconfig context `kind-flotilla`, or that of `KIND_CLUSTER_NAME`.
    ///
    /// # Errors
    /// There is no such cluster, or it does not answer.
    pub async fn connect() -> Outcome<Self> {
        let context = format!("kind-{}", std::env::var("KIND_CLUSTER_NAME").unwrap_or_else(|_| "flotilla".to_owned()));
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options)
            .await
            .map_err(|error| format!("no kubeconfig context {context}: {error}; run e2e/run"))?;
        let client = Client::try_from(config)?;
        let nodes = Api::<Node>::all(client.clone())
            .list(&ListParams::default())
            .await
            .map_err(|error| format!("the cluster {context} does not answer: {error}; run e2e/run"))?;
        let [node] = nodes.items.as_slice() else {
            return Err(format!("{context} has {} nodes; these tests are made for one", nodes.items.len()).into());
        };
        let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
        let address = addresses
            .into_iter()
            .flatten()
            .find(|address| address.type_ == "InternalIP")
            .ok_or("the node has no address")?
            .address
            .parse()?;
        Ok(Self { client, node: node.name_any(), address, context })
    }

    /// GETs a page of a pod through the API server.
    ///
    /// # Errors
    /// The pod does not answer.
    pub async fn page(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Outcome<String> {
        ensure!(!path.starts_with('/'), "{path} starts with a slash");
        let proxy = Request::new(format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy"));
        let request = proxy.get(path, &GetParams::default()).map_err(|error| error.to_string())?;
        Ok(self.client.request_text(request).await?)
    }
}

/// Sum of the samples of a metric in a page of the Prometheus text format, over those that have all of `labels`.
pub fn metric(page: &str, name: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_own_samples_only() {
        let page = "# HELP a\na{x=\"1\"} 2\na{x=\"2\",y=\"3\"} 3\na_total 100\na 0.5\n";
        assert!((metric(page, "a", &[]) - 5.5).abs() < 1e-9);
        assert!((metric(page, "a", &["x=\"2\""]) - 3.0).abs() < 1e-9);
        assert!(metric(page, "b", &[]).abs() < 1e-9);
    }
}
