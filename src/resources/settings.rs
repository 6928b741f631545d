//! The server's settings file, version 1, in an immutable ConfigMap named by its content. Triton's is its config.pbtxt.
//!
//! A changed setting is a new ConfigMap and with it a new pod template: pods never read settings that they were not started for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::{Error, common_labels, digest, object_meta, triton};
use crate::api::model::PreprocessingPreset;
use crate::api::runtime::{Engine, ExecutionProvider};
use crate::service::{EngineCache, ValidatedService, names};

/// The file's name in the ConfigMap and in the mounted folder.
pub const FILE: &str = "settings.json";

/// Seconds that a server keeps accepting after SIGTERM while it is not ready.
pub const DRAIN_DELAY_SECONDS: u32 = 5;
/// Seconds that it then has for what it accepted.
pub const DRAIN_TIMEOUT_SECONDS: u32 = 45;

/// What the server keeps in a claim: some dozens of engines, whatever the claim has room for.
const CLAIM_MEBIBYTES: u32 = 8192;

/// The settings file. The fields' order is the text's order, and the text's digest is the ConfigMap's name: a change here
/// replaces the pods of every service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings<'a> {
    version: u32,
    model: Model<'a>,
    execution_provider: ExecutionProvider,
    /// Left out where it is 1, the server's default: the settings of services that never asked for more stay as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<u32>,
    /// Absent as before where there is none, so that an upgrade replaces no pod that has no cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<Cache>,
    batching: Batching,
    http: Http,
    metrics: Metrics,
    drain: Drain,
}

#[derive(Debug, Serialize)]
struct Model<'a> {
    name: &'a str,
    path: &'a str,
    preprocessing: Preprocessing,
}

#[derive(Debug, Serialize)]
struct Preprocessing {
    preset: PreprocessingPreset,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cache {
    path: &'static str,
    persistent: bool,
    max_mebibytes: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names of the file")]
struct Batching {
    max_batch_size: u32,
    max_queue_delay_microseconds: u128,
    max_queue_size: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Http {
    port: i32,
    max_body_bytes: u32,
    max_connection_age_seconds: u32,
}

#[derive(Debug, Serialize)]
struct Metrics {
    port: i32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Drain {
    delay_seconds: u32,
    timeout_seconds: u32,
}

/// The ConfigMap with the settings file.
///
/// # Errors
/// [`Error::Serialize`], which does not happen.
pub fn build(service: &ValidatedService) -> Result<ConfigMap, Error> {
    let (file, text) = match service.runtime.engine {
        Engine::OnnxRuntime | Engine::Custom => (FILE, text(service)?),
        Engine::Triton => (triton::FILE, triton::config(service)),
    };
    let digest: String = digest::of_text(&text).chars().take(8).collect();
    Ok(ConfigMap {
        metadata: object_meta(service, names::settings(&service.name, &digest), common_labels(service)),
        immutable: Some(true),
        data: Some(BTreeMap::from([(file.to_owned(), text)])),
        ..ConfigMap::default()
    })
}

fn cache(cache: &EngineCache) -> Cache {
    Cache {
        path: super::server_pod::CACHE_MOUNT,
        persistent: cache.is_persistent(),
        max_mebibytes: match cache {
            // The node evicts a pod that writes more than its limit, and what is being built counts too.
            EngineCache::EmptyDir { max_mebibytes } => (max_mebibytes / 2).max(1),
            EngineCache::Claim { .. } => CLAIM_MEBIBYTES,
        },
    }
}

/// The file's text.
fn text(service: &ValidatedService) -> Result<String, Error> {
    let settings = Settings {
        version: 1,
        model: Model {
            name: &service.model.name,
            path: &service.model.path,
            preprocessing: Preprocessing { preset: service.model.preprocessing },
        },
        execution_provider: service.runtime.execution_provider,
        instances: Some(service.runtime.instances).filter(|instances| *instances != 1),
        cache: service.runtime.cache.as_ref().map(cache),
        batching: Batching {
            max_batch_size: service.runtime.max_batch_size,
            max_queue_delay_microseconds: service.runtime.max_queue_delay.as_micros(),
            max_queue_size: 1024,
        },
        http: Http {
            port: super::server_pod::HTTP_PORT,
            max_body_bytes: 64 * 1024 * 1024,
            max_connection_age_seconds: 20,
        },
        metrics: Metrics { port: super::server_pod::METRICS_PORT },
        drain: Drain { delay_seconds: DRAIN_DELAY_SECONDS, timeout_seconds: DRAIN_TIMEOUT_SECONDS },
    };
    Ok(serde_json::to_string_pretty(&settings)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use serde_json::json;

    /// The server refuses unknown and missing fields: if this fails, no pod starts after an upgrade.
    #[test]
    fn the_file_is_the_committed_one() {
        let service = validated(json!({
            "model": {"name": "clip", "preprocessing": {"preset": "Clip"}},
            "runtime": {"executionProvider": "Cpu", "maxBatchSize": 8, "maxQueueDelayMicroseconds": 500,
                "cache": {"persistentVolumeClaim": {"claimName": "engines"}}},
        }));
        assert_eq!(text(&service).unwrap(), include_str!("testdata/settings.golden.json"));
    }

    #[test]
    fn the_name_follows_the_content_and_comes_back_with_it() {
        let name = |spec| build(&validated(spec)).unwrap().metadata.name.unwrap();
        let first = name(json!({}));
        assert_eq!(first.len(), "photos-settings-".len() + 8);
        assert_ne!(first, name(json!({"runtime": {"maxBatchSize": 16}})));
        assert_eq!(first, name(json!({"runtime": {"maxBatchSize": 32}})));
        assert_eq!(first, name(json!({"scaling": {"maxReplicas": 3}})), "scaling is no setting of the server");
    }

    #[test]
    fn the_whole_object() {
        let service = validated(json!({}));
        let digest = &digest::of_text(&text(&service).unwrap())[..8];
        assert_eq!(
            serde_json::to_value(build(&service).unwrap()).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": crate::resources::tests::metadata(&format!("photos-settings-{digest}")),
                "immutable": true,
                "data": {"settings.json": text(&service).unwrap()},
            })
        );
    }
}
