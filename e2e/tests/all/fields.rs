//! Every field of the spec has an effect: set, changed and unset, each seen in what the operator writes. Against a real API
//! server, without a cluster. A field of the CRD that has no row here fails the test.

use std::collections::BTreeSet;
use std::time::Duration;

use flotilla::api::InferenceService;
use flotilla_e2e::apiserver::ApiServer;
use flotilla_e2e::table::Table;
use flotilla_e2e::{Look, Outcome, ensure, patched, timer, until};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, CustomResourceExt as _};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 6;

/// Fields whose effect needs running servers, and the test that shows it; or that have one value only.
const ELSEWHERE: [(&str, &str); 2] = [
    ("scaling.scaleDownStabilizationSeconds", "tests/all/scaling.rs and tests/all/metrics_outage.rs: 30 s and 10 s"),
    ("rollout.progressDeadlineSeconds", "tests/all/failures.rs: 10 s and 600 s"),
];

/// A field, the spec around it, where its effect is seen, and its three values with their effects.
struct Row {
    field: &'static str,
    around: Value,
    seen: &'static str,
    /// Unset, set, changed.
    effects: [Value; 3],
    values: [Value; 2],
}

fn row(field: &'static str, around: Value, seen: &'static str, values: [Value; 2], effects: [Value; 3]) -> Row {
    Row { field, around, seen, effects, values }
}

#[allow(clippy::too_many_lines, reason = "a table, of one row a field")]
fn rows() -> Vec<Row> {
    let none = || json!({});
    let gpu = || json!({"placement": {"gpu": {}}});
    let external = |spec: Value| patched(&json!({"scaling": {"mode": "External"}}), &spec);
    let claim = || json!({"model": {"source": {"image": null, "persistentVolumeClaim": {"claimName": "c"}}}});
    let uri = |fields: Value| json!({"model": {"source": {"image": null, "uri": patched(&json!({"uri": "s3://m/c"}), &fields)}}});
    let fetcher = "/deployment/spec/template/spec/initContainers/0";
    let volumes = "/deployment/spec/template/spec/volumes";
    let volume = format!("{volumes}/model");
    let container = "/deployment/spec/template/spec/containers/0";
    let at = |path: String| -> &'static str { Box::leak(path.into_boxed_str()) };
    vec![
        row(
            "model.name",
            none(),
            "/settings/model/name",
            [json!("a"), json!("b")],
            [json!("NAME"), json!("a"), json!("b")],
        ),
        row(
            "model.source.image.reference",
            none(),
            at(format!("{volume}/image/reference")),
            [json!("r/a:1"), json!("r/b:2")],
            [json!("flotilla/model-timer:1"), json!("r/a:1"), json!("r/b:2")],
        ),
        row(
            "model.source.image.path",
            json!({"model": {"source": {"image": {"path": null}}}}),
            "/settings/model/path",
            [json!("x"), json!("x/y")],
            [json!("/mnt/model"), json!("/mnt/model/x"), json!("/mnt/model/x/y")],
        ),
        row(
            "model.source.image.pullPolicy",
            none(),
            at(format!("{volume}/image/pullPolicy")),
            [json!("Always"), json!("Never")],
            [json!("IfNotPresent"), json!("Always"), json!("Never")],
        ),
        row(
            "model.source.persistentVolumeClaim.claimName",
            claim(),
            at(format!("{volume}/persistentVolumeClaim/claimName")),
            [json!("a"), json!("b")],
            [json!("c"), json!("a"), json!("b")],
        ),
        row(
            "model.source.persistentVolumeClaim.path",
            claim(),
            "/settings/model/path",
            [json!("x"), json!("x/y")],
            [json!("/mnt/model"), json!("/mnt/model/x"), json!("/mnt/model/x/y")],
        ),
        row(
            "model.source.uri.uri",
            uri(none()),
            at(format!("{fetcher}/args/0")),
            [json!("gs://a/b"), json!("https://h/m.onnx")],
            [json!("--uri=s3://m/c"), json!("--uri=gs://a/b"), json!("--uri=https://h/m.onnx")],
        ),
        row(
            "model.source.uri.sha256",
            uri(none()),
            at(format!("{fetcher}/args/3")),
            [json!("a".repeat(64)), json!("b".repeat(64))],
            [Value::Null, json!(format!("--sha256={}", "a".repeat(64))), json!(format!("--sha256={}", "b".repeat(64)))],
        ),
        row(
            "model.source.uri.secretRef.name",
            uri(json!({"secretRef": {"name": "c"}})),
            at(format!("{fetcher}/envFrom/0/secretRef/name")),
            [json!("a"), json!("b")],
            [json!("c"), json!("a"), json!("b")],
        ),
        row(
            "model.source.uri.maxMebibytes",
            uri(none()),
            at(format!("{volume}/emptyDir/sizeLimit")),
            [json!(936), json!(1960)],
            [json!("16448Mi"), json!("1000Mi"), json!("2024Mi")],
        ),
        row(
            "model.preprocessing.preset",
            none(),
            "/settings/model/preprocessing/preset",
            [json!("Clip"), json!("ImageNet")],
            [json!("None"), json!("Clip"), json!("ImageNet")],
        ),
        row(
            "runtime.engine",
            json!({"runtime": {"image": "s:1"}}),
            at(format!("{container}/args/0")),
            [json!("Triton"), json!("Custom")],
            [json!("--settings"), json!("tritonserver"), Value::Null],
        ),
        row(
            "runtime.instancesPerReplica",
            none(),
            "/settings/instances",
            [json!(2), json!(4)],
            [Value::Null, json!(2), json!(4)],
        ),
        row(
            "runtime.image",
            none(),
            at(format!("{container}/image")),
            [json!("s:1"), json!("s:2")],
            [json!("flotilla/server:0.1.0-cpu"), json!("s:1"), json!("s:2")],
        ),
        row(
            "runtime.executionProvider",
            json!({"placement": {"gpu": {}}, "runtime": {"executionProvider": null}}),
            "/settings/executionProvider",
            [json!("Cuda"), json!("TensorRt")],
            [json!("Auto"), json!("Cuda"), json!("TensorRt")],
        ),
        row(
            "runtime.maxBatchSize",
            none(),
            "/settings/batching/maxBatchSize",
            [json!(4), json!(64)],
            [json!(32), json!(4), json!(64)],
        ),
        row(
            "runtime.maxQueueDelayMicroseconds",
            none(),
            "/settings/batching/maxQueueDelayMicroseconds",
            [json!(500), json!(1000)],
            [json!(0), json!(500), json!(1000)],
        ),
        row(
            "runtime.cache.emptyDir.maxMebibytes",
            none(),
            at(format!("{volumes}/engine-cache/emptyDir/sizeLimit")),
            [json!(512), json!(1024)],
            [Value::Null, json!("512Mi"), json!("1Gi")],
        ),
        row(
            "runtime.cache.persistentVolumeClaim.claimName",
            json!({"placement": {"gpu": {}}, "runtime": {"executionProvider": "Auto"}}),
            at(format!("{volumes}/engine-cache/persistentVolumeClaim/claimName")),
            [json!("a"), json!("b")],
            [Value::Null, json!("a"), json!("b")],
        ),
        row(
            "runtime.resources.requests",
            json!({"runtime": {"resources": null}}),
            at(format!("{container}/resources/requests/cpu")),
            [json!({"cpu": "100m"}), json!({"cpu": 2})],
            [Value::Null, json!("100m"), json!("2")],
        ),
        row(
            "runtime.resources.limits",
            json!({"runtime": {"resources": null}}),
            at(format!("{container}/resources/limits/memory")),
            [json!({"memory": "1Gi"}), json!({"memory": "2Gi"})],
            [Value::Null, json!("1Gi"), json!("2Gi")],
        ),
        row(
            "runtime.podTemplate",
            none(),
            "/deployment/spec/template/spec/priorityClassName",
            [json!({"spec": {"priorityClassName": "a"}}), json!({"spec": {"priorityClassName": "b"}})],
            [Value::Null, json!("a"), json!("b")],
        ),
        row(
            "placement.gpu.resourceName",
            gpu(),
            at(format!("{container}/resources/limits")),
            [json!("a.example/gpu"), json!("b.example/gpu")],
            [
                json!({"memory": "256Mi", "nvidia.com/gpu": "1"}),
                json!({"memory": "256Mi", "a.example/gpu": "1"}),
                json!({"memory": "256Mi", "b.example/gpu": "1"}),
            ],
        ),
        row(
            "placement.gpu.countPerReplica",
            gpu(),
            at(format!("{container}/resources/limits/nvidia.com~1gpu")),
            [json!(2), json!(4)],
            [json!("1"), json!("2"), json!("4")],
        ),
        row(
            "placement.gpu.products",
            gpu(),
            "/deployment/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
             /nodeSelectorTerms/0/matchExpressions/0/values",
            [json!(["A"]), json!(["B", "C"])],
            [Value::Null, json!(["A", "A-SHARED"]), json!(["B", "B-SHARED", "C", "C-SHARED"])],
        ),
        row(
            "scaling.mode",
            none(),
            "/status/summary/queue",
            [json!("External"), json!("Advisory")],
            [json!("-/20ms"), json!("-"), json!("-/20ms")],
        ),
        row(
            "scaling.paused",
            none(),
            "/status/scaling/reason",
            [json!(true), json!(false)],
            [json!("NoReadyReplicas"), json!("Paused"), json!("NoReadyReplicas")],
        ),
        row(
            "scaling.minReplicas",
            external(none()),
            "/deployment/spec/replicas",
            [json!(2), json!(5)],
            [json!(1), json!(2), json!(5)],
        ),
        row(
            "scaling.maxReplicas",
            external(json!({"replicas": 9})),
            "/deployment/spec/replicas",
            [json!(3), json!(5)],
            [json!(8), json!(3), json!(5)],
        ),
        row(
            "scaling.targetQueueTimeMilliseconds",
            none(),
            "/status/summary/queue",
            [json!(50), json!(70)],
            [json!("-/20ms"), json!("-/50ms"), json!("-/70ms")],
        ),
        row(
            "replicas",
            external(none()),
            "/deployment/spec/replicas",
            [json!(3), json!(2)],
            [json!(1), json!(3), json!(2)],
        ),
        row(
            "service.type",
            json!({"service": null}),
            "/service/spec/type",
            [json!("NodePort"), json!("LoadBalancer")],
            [json!("ClusterIP"), json!("NodePort"), json!("LoadBalancer")],
        ),
        row(
            "rollout.strategy",
            none(),
            "/deployment/spec/strategy/rollingUpdate/maxSurge",
            [json!("Replace"), json!("Surge")],
            [json!(1), json!(0), json!(1)],
        ),
    ]
}

/// Sets the value at a dotted path.
fn with(spec: &Value, field: &str, value: &Value) -> Value {
    let patch = field.rsplit('.').fold(value.clone(), |inner, key| json!({key: inner}));
    patched(spec, &patch)
}

/// What the operator wrote for a service: its Deployment, Service, settings and status, with volumes by name.
async fn written(client: &Client, name: &str, pool: &str) -> Outcome<Value> {
    let in_default = |value: kube::Result<Value>| value.unwrap_or(Value::Null);
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = deployments.get(&format!("{name}-{pool}-stable")).await.map(|object| json!(object));
    let mut deployment = in_default(deployment);
    let mut settings = Value::Null;
    if let Some(Value::Array(volumes)) = deployment.pointer("/spec/template/spec/volumes").cloned() {
        let map = volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str());
        if let Some(map) = map {
            let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
            let data = maps.get(map).await.ok().and_then(|map| map.data).unwrap_or_default();
            // Triton's configuration is no JSON.
            settings =
                data.values().next().map(|text| serde_json::from_str(text).unwrap_or(json!(text))).unwrap_or_default();
        }
        let named = volumes.into_iter().filter_map(|volume| Some((volume["name"].as_str()?.to_owned(), volume)));
        deployment["spec"]["template"]["spec"]["volumes"] = Value::Object(named.collect());
    }
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = in_default(services.get(&format!("{name}-inference")).await.map(|object| json!(object)));
    let ours: Api<InferenceService> = Api::default_namespaced(client.clone());
    let status = json!(ours.get(name).await?.status);
    Ok(json!({"deployment": deployment, "service": service, "settings": settings, "status": status}))
}

/// Walks one field through unset, set, changed and unset again.
async fn walk(client: &Client, index: usize, row: &Row) -> Outcome {
    let name = format!("field-{index}");
    let services: Api<InferenceService> = Api::default_namespaced(client.clone());
    let base = timer(&name, &row.around);
    let pool = if base.pointer("/spec/placement/gpu").is_some() { "gpu" } else { "cpu" };
    let [unset, set, changed] = &row.effects;
    let [first, second] = &row.values;
    let with = |value: &Value| {
        let mut manifest = base.clone();
        manifest["spec"] = with(&base["spec"], row.field, value);
        manifest
    };
    let steps = [
        ("unset", base.clone(), unset),
        ("set", with(first), set),
        ("changed", with(second), changed),
        ("unset again", base.clone(), unset),
    ];
    for (step, manifest, effect) in steps {
        services.patch(&name, &PatchParams::apply("user").force(), &Patch::Apply(&manifest)).await?;
        let effect = if *effect == json!("NAME") { json!(name) } else { effect.clone() };
        until(&format!("{} {step}: {} is {effect}", row.field, row.seen), LIMIT, async || {
            let written = written(client, &name, pool).await?;
            let seen = written.pointer(row.seen).cloned().unwrap_or_default();
            let done = if row.seen.starts_with("/status") {
                // The status is about the manifest as it is now.
                let current = services.get(&name).await?;
                current.status.and_then(|status| status.observed_generation) == current.metadata.generation
                    && seen == effect
            } else {
                seen == effect
            };
            Ok(if done { Look::Break(()) } else { Look::Continue(seen.to_string()) })
        })
        .await?;
    }
    Ok(())
}

/// Paths of all fields of the spec that hold a value, as the CRD says.
fn fields() -> Outcome<BTreeSet<String>> {
    fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        match schema.get("properties").and_then(Value::as_object) {
            Some(properties) => {
                for (name, schema) in properties {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    collect(schema, &path, found);
                }
            }
            None => {
                found.insert(path.to_owned());
            }
        }
    }
    let crd = serde_json::to_value(InferenceService::crd())?;
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").ok_or("no schema")?;
    let mut found = BTreeSet::new();
    collect(spec, "", &mut found);
    Ok(found)
}

#[tokio::test]
async fn every_field_can_be_set_changed_and_unset() -> Outcome {
    let rows = rows();
    let covered: BTreeSet<String> =
        rows.iter().map(|row| row.field).chain(ELSEWHERE.iter().map(|(field, _)| *field)).map(str::to_owned).collect();
    let fields = fields()?;
    ensure!(fields == covered, "without a row: {:?}; without a field: {:?}", &fields - &covered, &covered - &fields);

    let server = ApiServer::start().await?;
    let _operator = server.operator("first").await?;
    let client = server.client.clone();
    let outcomes: Vec<(usize, Outcome)> = futures::stream::iter(rows.iter().enumerate())
        .map(|(index, row)| {
            let client = client.clone();
            async move { (index, walk(&client, index, row).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut table = Table::new("Fields of the spec", &["field", "seen in", "unset", "set", "changed"]);
    for row in &rows {
        let [unset, set, changed] = row.effects.clone().map(|effect| effect.to_string());
        table.row([row.field, row.seen, unset.as_str(), set.as_str(), changed.as_str()]);
    }
    for (field, place) in ELSEWHERE {
        table.row([field, place]);
    }
    table.print();
    let failed: Vec<String> =
        outcomes.into_iter().filter_map(|(_, outcome)| outcome.err()).map(|error| error.to_string()).collect();
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}
