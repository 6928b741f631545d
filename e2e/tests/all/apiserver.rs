//! The CRD and the operator against a real API server, without a cluster: no pod ever starts here.

use std::time::Duration;

use flotilla::api::{InferenceService, condition};
use flotilla_e2e::apiserver::ApiServer;
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, ensure, patched, program, timer, until};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// After so long without a write nothing is under way: what was measured is published at most every 30 s.
const AT_REST: Duration = Duration::from_secs(32);

async fn create(services: &Api<InferenceService>, manifest: &Value) -> kube::Result<InferenceService> {
    services
        .create(&PostParams::default(), &serde_json::from_value(manifest.clone()).map_err(kube::Error::SerdeError)?)
        .await
}

/// Applies as a user does, so that nothing of the manifest is lost in our own types.
async fn apply(services: &Api<InferenceService>, manifest: &Value) -> kube::Result<InferenceService> {
    let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
    let mut strict = PatchParams::apply("user");
    strict.field_validation = Some(kube::api::ValidationDirective::Strict);
    services.patch(name, &strict, &Patch::Apply(manifest)).await
}

/// A user who leaves fields out gets the documented defaults, visible in the object.
#[tokio::test]
async fn defaults_are_filled_in_by_the_schema() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let manifest = json!({
        "apiVersion": "flotilla.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "small"},
        "spec": {"model": {"source": {"image": {"reference": "m:1"}}}, "placement": {"gpu": {}}},
    });
    let spec = serde_json::to_value(apply(&services, &manifest).await?.spec)?;
    for (path, expected) in [
        ("/model/source/image/pullPolicy", json!("IfNotPresent")),
        ("/model/preprocessing/preset", json!("None")),
        ("/runtime/engine", json!("OnnxRuntime")),
        ("/runtime/executionProvider", json!("Auto")),
        ("/runtime/maxBatchSize", json!(32)),
        ("/runtime/maxQueueDelayMicroseconds", json!(0)),
        ("/placement/gpu/resourceName", json!("nvidia.com/gpu")),
        ("/placement/gpu/countPerReplica", json!(1)),
        ("/scaling/mode", json!("QueueTime")),
        ("/scaling/paused", json!(false)),
        ("/scaling/minReplicas", json!(1)),
        ("/scaling/maxReplicas", json!(8)),
        ("/scaling/targetQueueTimeMilliseconds", json!(20)),
        ("/scaling/scaleDownStabilizationSeconds", json!(300)),
        ("/replicas", json!(1)),
        ("/service/type", json!("ClusterIP")),
        ("/rollout/strategy", json!("Auto")),
        ("/rollout/progressDeadlineSeconds", json!(600)),
    ] {
        ensure!(spec.pointer(path) == Some(&expected), "{path} is {:?}, documented as {expected}", spec.pointer(path));
    }
    Ok(())
}

/// Each rule of the schema refuses, names the field, and lets the nearest right value pass.
#[tokio::test]
async fn the_schema_refuses_what_can_not_work() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let refused: [(Value, &[&str]); 20] = [
        (json!({"spec": {"model": {"source": {"image": null}}}}), &["spec.model.source", "exactly one of"]),
        (
            json!({"spec": {"model": {"source": {"persistentVolumeClaim": {"claimName": "c"}}}}}),
            &["spec.model.source", "exactly one of"],
        ),
        (json!({"spec": {"model": {"source": {"image": {"path": "../etc"}}}}}), &["image.path", "'..'"]),
        (json!({"spec": {"model": {"source": {"image": {"path": "/etc"}}}}}), &["image.path", "relative"]),
        (json!({"spec": {"model": {"source": {"image": {"reference": "a b"}}}}}), &["image.reference"]),
        (json!({"spec": {"model": {"name": "a/b"}}}), &["spec.model.name"]),
        (json!({"spec": {"model": {"preprocessing": {"preset": "clip"}}}}), &["preset", "\"Clip\""]),
        (json!({"spec": {"runtime": {"executionProvider": "Cuda"}}}), &["executionProvider", "placement.gpu"]),
        (
            json!({"spec": {"runtime": {"maxBatchSize": 0}}}),
            &["spec.runtime.maxBatchSize", "greater than or equal to 1"],
        ),
        (json!({"spec": {"runtime": {"resources": {"limits": {"memory": "lots"}}}}}), &["limits.memory"]),
        (json!({"spec": {"runtime": {"engine": "Ollama"}}}), &["spec.runtime.engine", "\"OnnxRuntime\""]),
        (json!({"spec": {"runtime": {"engine": "Triton"}}}), &["spec.runtime", "need runtime.image"]),
        (
            json!({"spec": {"model": {"preprocessing": {"preset": "Clip"}}, "runtime": {"engine": "Triton", "image": "t:1"}}}),
            &["model.preprocessing.preset", "send tensors"],
        ),
        (json!({"spec": {"scaling": {"minReplicas": 9}}}), &["spec.scaling", "raise maxReplicas"]),
        (
            json!({"spec": {"scaling": {"mode": "External", "paused": true}}}),
            &["spec.scaling", "leave paused out", "autoscaling.keda.sh/paused"],
        ),
        (json!({"spec": {"scaling": {"minReplicas": 0}}}), &["minReplicas", "greater than or equal to 1"]),
        (json!({"spec": {"scaling": {"targetQueueTimeMilliseconds": -5}}}), &["targetQueueTimeMilliseconds"]),
        (json!({"spec": {"placement": {"gpu": {"resourceName": "gpus"}}}}), &["resourceName"]),
        (
            json!({"metadata": {"name": "a-name-that-is-much-too-long-for-what-is-named-after-it"}}),
            &["metadata.name", "40"],
        ),
        (json!({"spec": {"scaling": {"maxReplica": 3}}}), &["spec.scaling.maxReplica", "not declared in schema"]),
    ];
    let good = timer("good", &json!({}));
    apply(&services, &good).await.map_err(|error| format!("the manifest that the bad ones differ from: {error}"))?;
    for (patch, expected) in refused {
        match apply(&services, &patched(&patched(&good, &json!({"metadata": {"name": "bad"}})), &patch)).await {
            Ok(_) => return Err(format!("{patch} was accepted").into()),
            Err(error) => {
                let message = error.to_string();
                let lost: Vec<_> = expected.iter().filter(|part| !message.contains(*part)).collect();
                ensure!(lost.is_empty(), "{patch}: the message lacks {lost:?}: {message}");
            }
        }
    }
    Ok(())
}

/// GitOps tools and people read the generated files: they must be what the operator was compiled with.
#[tokio::test]
async fn the_generated_files_are_current() -> Outcome {
    use kube::CustomResourceExt as _;
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let current = serde_json::to_value(InferenceService::crd())?;
    let name = "inferenceservices.flotilla.dev.yaml";
    for folder in ["crds", "charts/flotilla-crds/templates"] {
        let text = std::fs::read_to_string(root.join(folder).join(name))?;
        let written: Value = serde_saphyr::from_str(&text)?;
        ensure!(written == current, "{folder}/{name} is not current: run make generate");
    }
    Ok(())
}

/// A visit that finds nothing to do writes nothing: not after the first, not after an edit was undone, not after a restart.
#[tokio::test]
async fn reconciling_again_writes_nothing() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let operator = server.operator("first").await?;
    for (name, spec) in [
        ("plain", json!({})),
        ("gpu", json!({"placement": {"gpu": {}}, "service": {"type": "ClusterIP"}})),
        ("external", json!({"scaling": {"mode": "External", "minReplicas": 2}, "replicas": 3})),
        (
            "patched",
            json!({"runtime": {"podTemplate": {"spec": {
                "terminationGracePeriodSeconds": 90,
                "containers": [{"name": "server", "env": [{"name": "A", "value": "1"}]}],
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            }}}}),
        ),
    ] {
        create(&services, &timer(name, &spec)).await?;
        visited(&services, name).await?;
    }
    let deployment = Api::<Deployment>::namespaced(server.client.clone(), "default").get("external-cpu-stable").await?;
    ensure!(deployment.spec.and_then(|spec| spec.replicas) == Some(3), "replicas of mode External are not ordered");

    let quiet = quiet(&server, AT_REST).await?;
    // An annotation changes nothing that the operator wants, but it makes a visit of each service.
    for service in services.list(&ListParams::default()).await? {
        let touch = json!({"metadata": {"annotations": {"touched": "yes"}}});
        services.patch(&service.name_any(), &PatchParams::default(), &Patch::Merge(touch)).await?;
    }
    let visits = operator.metric("flotilla_operator_reconciles_total").await?;
    until("the services are visited again", LIMIT, async || {
        let now = operator.metric("flotilla_operator_reconciles_total").await?;
        Ok(if now >= visits + 4.0 { Look::Break(()) } else { Look::Continue(format!("{} visits", now - visits)) })
    })
    .await?;
    let mut after = server.writes().await?;
    // The annotations were ours.
    after.retain(|(what, _)| what != "PATCH inferenceservices");
    ensure!(after == quiet, "a visit for nothing wrote: before {quiet:?}, after {after:?}");

    operator.stop().await?;
    let before = server.writes().await?;
    let _second = server.operator("second").await?;
    let after = self::quiet(&server, AT_REST).await?;
    ensure!(after == before, "a restarted operator wrote: before {before:?}, after {after:?}");
    Ok(())
}

/// The command line against a real API server, where no operator's pod can be reached: the status tells, and why.
#[tokio::test]
async fn explain_and_top_say_why_the_operator_is_not_asked() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let run = async |arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().copied().chain(["--kubeconfig", &kubeconfig]).collect();
        program::flotilla(&all).await
    };
    let error = run(&["explain", "photos"]).await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("there is no InferenceService photos in the namespace default"), "{error}");
    create(&services, &timer("photos", &json!({}))).await?;
    let text = run(&["explain", "photos"]).await?;
    ensure!(text.contains("there is no Lease flotilla-operator in the namespace flotilla-system"), "{text}");

    let _operator = server.operator("first").await?;
    visited(&services, "photos").await?;
    let told: Value = serde_json::from_str(&run(&["explain", "photos", "--json"]).await?)?;
    // The Lease names the operator; a process beside the API server is no pod.
    let fallback = told["fallback"].as_str().unwrap_or_default();
    ensure!(fallback.contains("the operator first can't be asked"), "{told}");
    ensure!(told["source"] == "Status" && told["status"]["desiredReplicas"] == 1, "{told}");
    let table = run(&["top", "-A"]).await?;
    let lines: Vec<&str> = table.lines().collect();
    ensure!(lines.len() == 2 && lines[0].starts_with("NAMESPACE   NAME"), "{table}");
    ensure!(lines[1].starts_with("default     photos"), "{table}");
    Ok(())
}

/// What others add to our objects stays, what they change of ours is put back, and nothing is written besides.
#[tokio::test]
async fn fields_of_others_are_left_alone() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let _operator = server.operator("first").await?;
    create(&services, &timer("shared", &json!({}))).await?;
    visited(&services, "shared").await?;
    let owned: Api<Service> = Api::namespaced(server.client.clone(), "default");
    let edit = json!({
        "metadata": {"annotations": {"stranger": "mine"}, "labels": {"app.kubernetes.io/instance": "wrong"}},
        "spec": {"sessionAffinity": "ClientIP"},
    });
    owned.patch("shared-inference", &PatchParams::default(), &Patch::Merge(edit)).await?;
    until("the label is put back", LIMIT, async || {
        let service = owned.get("shared-inference").await?;
        let label = service.labels().get("app.kubernetes.io/instance").cloned();
        if label.as_deref() != Some("shared") {
            return Ok(Look::Continue(format!("{label:?}")));
        }
        ensure!(service.annotations().get("stranger").is_some(), "the annotation of somebody else was removed");
        let affinity = service.spec.and_then(|spec| spec.session_affinity);
        ensure!(affinity.as_deref() == Some("ClientIP"), "a field that is not ours was taken back: {affinity:?}");
        Ok(Look::Break(()))
    })
    .await?;
    Ok(())
}

/// A hundred services: all their objects come, and then the API server sees no write at all.
#[tokio::test]
async fn a_hundred_services_come_to_rest() -> Outcome {
    let server = ApiServer::start().await?;
    let operator = server.operator("first").await?;
    let measured = flotilla_e2e::scale_bench::measure(&server, &operator, 100, Duration::from_secs(20)).await?;
    measured.print();
    ensure!(measured.writes_at_rest.is_empty(), "writes at rest: {:?}", measured.writes_at_rest);
    operator.stop().await?;
    let before = server.writes().await?;
    let second = server.operator("second").await?;
    until("every service is visited", LIMIT, async || {
        let visits = second.metric("flotilla_operator_reconciles_total").await?;
        Ok(if visits >= 100.0 { Look::Break(()) } else { Look::Continue(format!("{visits} visits")) })
    })
    .await?;
    let after = quiet(&server, AT_REST).await?;
    ensure!(after == before, "a restarted operator wrote: before {before:?}, after {after:?}");
    Ok(())
}

/// A leader that was paused for longer than its lease wakes up, believes that it leads, and may not write a thing.
#[tokio::test]
async fn a_leader_that_was_paused_writes_nothing() -> Outcome {
    let server = ApiServer::start().await?;
    let services: Api<InferenceService> = Api::namespaced(server.client.clone(), "default");
    let mut first = server.operator("first").await?;
    let second = server.standby("second").await?;
    create(&services, &timer("led", &json!({}))).await?;
    visited(&services, "led").await?;
    first.signal("STOP").await?;
    let took = second.leads(Duration::from_secs(20)).await?;
    // Something that the first one would act upon at once, and nothing that the second one leaves undone.
    let grown = json!({"spec": {"scaling": {"minReplicas": 3}}});
    services.patch("led", &PatchParams::default(), &Patch::Merge(grown)).await?;
    visited(&services, "led").await?;
    let before = quiet(&server, AT_REST).await?;
    first.signal("CONT").await?;
    let status = first.ended(LIMIT).await?;
    ensure!(!status.success(), "it lost its lease and ended as if all were well");
    let after = server.writes().await?;
    ensure!(after == before, "writes around its awakening: before {before:?}, after {after:?}");
    let mut table = Table::new("A leader is paused", &["what", "measured", "limit"]);
    table.row(["the standby leads after".to_owned(), format!("{:.1} s", took.as_secs_f64()), "20 s".to_owned()]);
    table.row(["writes of the old leader when it wakes".to_owned(), "0".to_owned(), "0".to_owned()]);
    table.print();
    Ok(())
}

/// Waits until every condition type is there for the manifest as it is.
async fn visited(services: &Api<InferenceService>, name: &str) -> Outcome {
    until(&format!("{name} is visited"), LIMIT, async || {
        let service = services.get(name).await?;
        let status = service.status.clone().unwrap_or_default();
        let types: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        let done = condition::ALL.iter().all(|kind| types.contains(kind))
            && status.observed_generation == service.metadata.generation;
        Ok(if done { Look::Break(()) } else { Look::Continue(format!("{types:?}")) })
    })
    .await?;
    Ok(())
}

/// Waits until the API server has counted no write for a while, and gives what it has counted by then.
async fn quiet(server: &ApiServer, lasting: Duration) -> Outcome<Vec<(String, u64)>> {
    let mut last = (std::time::Instant::now(), server.writes().await?);
    let (writes, _) = until("the writes come to rest", LIMIT * 4, async || {
        let now = server.writes().await?;
        if now != last.1 {
            last = (std::time::Instant::now(), now);
        }
        Ok(if last.0.elapsed() >= lasting {
            Look::Break(last.1.clone())
        } else {
            Look::Continue(format!("{:?}", last.1))
        })
    })
    .await?;
    Ok(writes)
}
