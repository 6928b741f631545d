//! `--check`: does an installation work? Run by `helm test`.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client};

use super::Args;
use crate::api::InferenceService;

/// Checks, one after the other, what an operator needs; each failure says what to do.
pub(super) async fn run(client: Client, args: &Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let few = ListParams::default().limit(1);
    let namespaces: Vec<_> = args.watch_namespaces.iter().filter(|namespace| !namespace.is_empty()).collect();
    let services: Vec<Api<InferenceService>> = if namespaces.is_empty() {
        vec![Api::all(client.clone())]
    } else {
        namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
    };
    for api in services {
        api.list(&few)
            .await
            .map_err(|error| format!("InferenceServices can't be listed: {error}; install the chart flotilla-crds"))?;
    }
    tracing::info!("InferenceServices are served and readable");
    let leases: Api<Lease> = Api::namespaced(client, &args.namespace);
    leases.get(&args.lease_name).await.map_err(|error| {
        format!("the Lease {} can't be read: {error}; install the chart flotilla again", args.lease_name)
    })?;
    tracing::info!("the lease is readable");
    if let Some(url) = &args.check_url {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let answer = http
            .get(url)
            .send()
            .await
            .map_err(|error| format!("{url} does not answer: {error}; see the operator's log"))?;
        if !answer.status().is_success() {
            return Err(format!("{url} answers {}: the operator is not ready; see its log", answer.status()).into());
        }
        tracing::info!("an operator is ready");
    }
    Ok(())
}
