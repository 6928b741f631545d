//! Many services at once, spread over some namespaces.

use flotilla::api::InferenceService;
use futures::StreamExt as _;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;

use crate::apiserver::ApiServer;
use crate::{Outcome, timer};

/// Services are spread over this many namespaces.
const NAMESPACES: usize = 4;
/// Requests under way while they are created.
const CREATING: usize = 16;

/// Makes the namespaces, `PREFIX-0` and so on.
///
/// # Errors
/// What the API server said.
pub async fn namespaces(server: &ApiServer, prefix: &str) -> Outcome {
    for index in 0..NAMESPACES {
        server.namespace(&format!("{prefix}-{index}")).await?;
    }
    Ok(())
}

/// Creates `count` services in them; `spec` is that of each, by its number.
///
/// # Errors
/// What the API server said.
pub async fn create(server: &ApiServer, prefix: &str, count: usize, spec: impl Fn(usize) -> Value) -> Outcome {
    let mut creates = futures::stream::iter((0..count).map(|index| {
        let services: Api<InferenceService> =
            Api::namespaced(server.client.clone(), &format!("{prefix}-{}", index % NAMESPACES));
        let manifest = timer(&format!("service-{index:05}"), &spec(index));
        async move {
            let service: InferenceService = serde_json::from_value(manifest)?;
            services.create(&PostParams::default(), &service).await?;
            Outcome::Ok(())
        }
    }))
    .buffer_unordered(CREATING);
    while let Some(created) = creates.next().await {
        created?;
    }
    Ok(())
}
