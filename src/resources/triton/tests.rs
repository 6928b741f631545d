//! The generated configuration, read back by a parser of Protocol Buffers' text format against Triton's own messages; the
//! pods; and the links, made by a real shell.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _};
use serde_json::{Value, json};

use super::text_format::TextFormat;
use super::*;
use crate::fixtures::validated;
use crate::resources::tests::built;

fn model_config() -> MessageDescriptor {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("inference-server/proto");
    let files = protox::compile(["model_config.proto"], [folder]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    pool.get_message_by_name("inference.ModelConfig").unwrap()
}

fn triton(spec: Value) -> Value {
    let mut triton = json!({"runtime": {"engine": "Triton", "image": "triton:1"}});
    for (section, fields) in spec.as_object().unwrap() {
        for (name, value) in fields.as_object().unwrap() {
            triton[section][name] = value.clone();
        }
    }
    triton
}

/// What users see in the ConfigMap. If a text changes here, the upgrade of the operator replaces the pods of such services.
#[test]
fn the_texts_are_the_committed_ones() {
    let on_gpu = |provider: &str| {
        triton(json!({
            "model": {"name": "clip"},
            "runtime": {
                "executionProvider": provider, "maxBatchSize": 8, "maxQueueDelayMicroseconds": 500, "instancesPerReplica": 2,
            },
            "placement": {"gpu": {"countPerReplica": 1}},
        }))
    };
    let table = [
        (triton(json!({})), include_str!("../testdata/triton-cpu.golden.pbtxt")),
        (on_gpu("Auto"), include_str!("../testdata/triton-cuda.golden.pbtxt")),
        (on_gpu("Cuda"), include_str!("../testdata/triton-cuda.golden.pbtxt")),
        (on_gpu("TensorRt"), include_str!("../testdata/triton-tensorrt.golden.pbtxt")),
    ];
    for (spec, golden) in table {
        assert_eq!(config(&validated(spec.clone())), golden, "{spec}");
    }
    let beside_a_gpu = config(&validated(on_gpu("Cpu")));
    assert!(beside_a_gpu.contains("kind: KIND_CPU"), "{beside_a_gpu}");
}

/// Engines of another image or of other weights have files of the same names.
#[test]
fn engines_are_kept_for_one_image_and_one_model() {
    let text = |image: &str, claim: &str| {
        config(&validated(json!({
            "runtime": {
                "engine": "Triton", "image": image, "executionProvider": "TensorRt",
                "cache": {"persistentVolumeClaim": {"claimName": "engines"}},
            },
            "placement": {"gpu": {"countPerReplica": 1}},
            "model": {"name": "clip", "source": {"image": null, "persistentVolumeClaim": {"claimName": claim, "path": "m"}}},
        })))
    };
    let folder = |text: &str| {
        let config = DynamicMessage::parse_text_format(model_config(), text).unwrap();
        let path = ["optimization", "execution_accelerators", "gpu_execution_accelerator", "parameters"];
        let parameters = path.iter().fold(prost_reflect::Value::Message(config), |value, name| {
            let message = value.as_list().and_then(<[_]>::first).unwrap_or(&value).as_message().unwrap().clone();
            message.get_field_by_name(name).unwrap().into_owned()
        });
        let get = |key: &str| {
            let value = &parameters.as_map().unwrap()[&prost_reflect::MapKey::String(key.to_owned())];
            value.as_str().unwrap().to_owned()
        };
        assert_eq!([get("trt_engine_cache_enable"), get("trt_timing_cache_enable")], ["true", "true"]);
        assert_eq!(get("trt_engine_cache_path"), get("trt_timing_cache_path"));
        get("trt_engine_cache_path")
    };
    let one = folder(&text("triton:1", "a"));
    assert!(one.starts_with("/var/cache/flotilla/triton-"), "{one}");
    assert_eq!(one, folder(&text("triton:1", "a")));
    assert_ne!(one, folder(&text("triton:2", "a")), "another image");
    assert_ne!(one, folder(&text("triton:1", "b")), "another model");
}

#[test]
fn triton_reads_what_was_meant() {
    let read = |text: &str| DynamicMessage::parse_text_format(model_config(), text).unwrap();
    let text = |message: &DynamicMessage, field: &str| {
        message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap()
    };
    let config = read(include_str!("../testdata/triton-tensorrt.golden.pbtxt"));
    assert_eq!([text(&config, "name"), text(&config, "backend")], ["clip", "onnxruntime"]);
    let pointer = |path: &[&str]| {
        path.iter().fold(prost_reflect::Value::Message(config.clone()), |value, name| match value {
            prost_reflect::Value::List(items) => {
                items[0].as_message().unwrap().get_field_by_name(name).unwrap().into_owned()
            }
            other => other.as_message().unwrap().get_field_by_name(name).unwrap().into_owned(),
        })
    };
    assert_eq!(pointer(&["max_batch_size"]).as_i32(), Some(8));
    assert_eq!(pointer(&["dynamic_batching", "max_queue_delay_microseconds"]).as_u64(), Some(500));
    assert_eq!(pointer(&["dynamic_batching", "default_queue_policy", "max_queue_size"]).as_u32(), Some(1024));
    assert_eq!(pointer(&["instance_group", "count"]).as_i32(), Some(2));
    let kinds = model_config().parent_pool().get_enum_by_name("inference.ModelInstanceGroup.Kind").unwrap();
    let kind = pointer(&["instance_group", "kind"]).as_enum_number().unwrap();
    assert_eq!(kinds.get_value(kind).unwrap().name(), "KIND_GPU");
    let accelerator = ["optimization", "execution_accelerators", "gpu_execution_accelerator"];
    assert_eq!(pointer(&[&accelerator[..], &["name"]].concat()).as_str(), Some("tensorrt"));
    let parameters = pointer(&[&accelerator[..], &["parameters"]].concat());
    let precision = &parameters.as_map().unwrap()[&prost_reflect::MapKey::String("precision_mode".to_owned())];
    assert_eq!(precision.as_str(), Some("FP16"));
    assert_eq!(config.descriptor().full_name(), "inference.ModelConfig");
}

proptest! {
    /// No value can end its literal and become configuration.
    #[test]
    fn any_string_comes_back(value in any::<String>()) {
        let mut written = TextFormat::default();
        written.string("name", &value);
        let config = DynamicMessage::parse_text_format(model_config(), &written.finish()).unwrap();
        let name = config.get_field_by_name("name").unwrap();
        prop_assert_eq!(name.as_str(), Some(value.as_str()));
    }
}

/// The pod, where it differs from the one of Flotilla's own server.
#[test]
fn the_pod_gets_a_repository_arguments_and_a_way_to_stop() {
    let own = serde_json::to_value(built(json!({"runtime": {"image": "triton:1"}})).deployment.spec.unwrap().template)
        .unwrap();
    let resources = built(triton(json!({"model": {"name": "clip"}})));
    let pod = serde_json::to_value(resources.deployment.spec.unwrap().template).unwrap();
    let server = &pod["spec"]["containers"][0];
    assert_eq!(
        server["args"],
        json!([
            "tritonserver",
            "--model-repository=/models",
            "--http-port=8000",
            "--grpc-port=8001",
            "--metrics-port=8002",
            "--allow-metrics=true",
            "--strict-readiness=true",
            "--exit-timeout-secs=45",
            "--grpc-max-connection-age=20000",
            "--grpc-max-connection-age-grace=30000",
        ])
    );
    assert_eq!(server["lifecycle"], json!({"preStop": {"sleep": {"seconds": 5}}}));
    assert_eq!(server["terminationMessagePolicy"], "FallbackToLogsOnError");
    assert_eq!(server["volumeMounts"][3], json!({"name": "repository", "mountPath": "/models", "readOnly": true}));
    for kept in ["ports", "startupProbe", "readinessProbe", "livenessProbe", "securityContext"] {
        assert_eq!(server[kept], own["spec"]["containers"][0][kept], "{kept}");
    }
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "tmp,repository"})
    );
    let init = &pod["spec"]["initContainers"][0];
    assert_eq!((&init["name"], &init["image"]), (&json!("repository"), &json!("triton:1")));
    assert_eq!(init["securityContext"], server["securityContext"]);
    assert_eq!(
        (&init["command"][4], &init["command"][5], &init["command"][6]),
        (&json!("/mnt/model/model"), &json!("/models/clip"), &json!("/etc/flotilla/config.pbtxt"))
    );
    let data = resources.config_map.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["config.pbtxt"]);
}

/// The engine is a part of the settings: a change of it makes a new ConfigMap and new pods, and of nothing else.
#[test]
fn a_server_of_the_users_own_starts_as_the_user_says() {
    let custom = json!({"runtime": {"engine": "Custom", "image": "own:1", "podTemplate": {"spec": {"containers": [{
        "name": "server", "command": ["/serve"], "args": ["--port=8000"], "env": [{"name": "WORKERS", "value": "4"}],
    }]}}}});
    let resources = built(custom);
    let pod = serde_json::to_value(resources.deployment.spec.unwrap().template).unwrap();
    let server = &pod["spec"]["containers"][0];
    assert_eq!((&server["command"], &server["args"]), (&json!(["/serve"]), &json!(["--port=8000"])));
    assert_eq!(server["lifecycle"], json!({"preStop": {"sleep": {"seconds": 5}}}));
    assert_eq!(pod["spec"]["initContainers"], Value::Null);
    let data = resources.config_map.data.unwrap();
    assert!(
        data["settings.json"].contains("\"maxBatchSize\": 32"),
        "a server that wants them finds the settings: {data:?}"
    );
}

/// What the patch may not do to what Flotilla adds for Triton.
#[test]
fn the_users_patch_leaves_the_repository_alone() {
    let refused = [
        (json!({"initContainers": [{"name": "repository", "image": "other"}]}), "spec.initContainers[repository]"),
        (json!({"volumes": [{"name": "repository", "emptyDir": {"medium": "Memory"}}]}), "spec.volumes[repository]"),
        (json!({"containers": [{"name": "server", "args": ["tritonserver"]}]}), "spec.containers[server].args"),
        (
            json!({"containers": [{"name": "server", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}),
            "spec.containers[server].lifecycle",
        ),
        (
            json!({"containers": [{"name": "server", "volumeMounts": [{"name": "tmp", "mountPath": "/models/x"}]}]}),
            "spec.containers[server].volumeMounts[/models/x]",
        ),
    ];
    for (patch, expected) in refused {
        let service = validated(triton(json!({"runtime": {"podTemplate": {"spec": patch}}})));
        let error = crate::resources::build(
            &service,
            crate::resources::RolloutShape::REPLACE,
            &crate::resources::tests::environment(),
        )
        .unwrap_err();
        assert!(error.to_string().starts_with(&format!("spec.runtime.podTemplate.{expected}: ")), "{error}");
    }
}

/// Runs the init container's command with its folders moved into `root`, and gives whether it succeeded.
fn link(root: &Path, path: &str) -> bool {
    let service =
        validated(triton(json!({"model": {"name": "clip", "source": {"image": {"reference": "m:1", "path": path}}}})));
    let command = init_container(&service).command.unwrap();
    // As the kubelet expands it.
    let command: Vec<String> = command.iter().map(|argument| argument.replace("$$", "$")).collect();
    let moved = |argument: &String| {
        if argument.starts_with('/') {
            root.join(argument.trim_start_matches('/')).display().to_string()
        } else {
            argument.clone()
        }
    };
    let mut arguments = command[1..].iter().map(moved);
    Command::new(&command[0]).args(&mut arguments).status().unwrap().success()
}

#[test]
fn the_links_make_a_repository_and_the_models_own_configuration_wins() {
    for (path, own) in [("entry", false), ("entry", true), ("it's a \"$(HOME)\" $$ entry", false)] {
        let root = tempfile::tempdir().unwrap();
        let (entry, settings) = (root.path().join("mnt/model").join(path), root.path().join("etc/flotilla"));
        for folder in [&entry.join("1"), &entry.join("3"), &settings, &root.path().join("models")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(entry.join("3/model.onnx"), "three").unwrap();
        fs::write(settings.join("config.pbtxt"), "generated").unwrap();
        if own {
            fs::write(entry.join("config.pbtxt"), "own").unwrap();
        }
        // A pod whose sandbox is made anew runs it again on the same folder.
        assert!(link(root.path(), path) && link(root.path(), path), "{path}");
        let repository = root.path().join("models/clip");
        assert_eq!(fs::read_to_string(repository.join("3/model.onnx")).unwrap(), "three", "{path}");
        let config = fs::read_to_string(repository.join("config.pbtxt")).unwrap();
        assert_eq!(config, if own { "own" } else { "generated" }, "{path}");
        assert_eq!(fs::read_dir(&repository).unwrap().count(), 3, "{path}");
    }
}

/// The operator puts these words into the status.
#[test]
fn a_folder_without_a_model_is_told() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("dev")).unwrap();
    fs::create_dir_all(root.path().join("models")).unwrap();
    assert!(!link(root.path(), "typing-error"));
    let words = fs::read_to_string(root.path().join("dev/termination-log")).unwrap();
    let words: Value = serde_json::from_str(&words).unwrap();
    assert_eq!(words["reason"], "ModelNotFound");
    assert!(words["message"].as_str().unwrap().contains("/mnt/model/typing-error"), "{words}");
}
