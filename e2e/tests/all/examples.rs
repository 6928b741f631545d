//! What users copy works: the examples, and the name beside KServe's kind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_e2e::{Look, Outcome, Workspace, ensure, timer, until, with_namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::process::Command;

async fn kubectl(workspace: &Workspace, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new("kubectl")
        .args(["--context", &workspace.cluster.context, "-n", &workspace.namespace])
        .args(arguments)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {arguments:?}: {errors}");
    Ok(text)
}

fn examples() -> Outcome<Vec<PathBuf>> {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    // KEDA's kind is not there: `keda.rs` has what is needed for it.
    files.retain(|path| !path.ends_with("keda.yaml"));
    files.sort();
    ensure!(files.len() >= 6, "the examples are not where they were: {files:?}");
    Ok(files)
}

#[tokio::test]
async fn every_example_is_accepted() -> Outcome {
    with_namespace(async |workspace| {
        for file in examples()? {
            let path = file.to_str().ok_or("no path")?;
            kubectl(workspace, &["apply", "--dry-run=server", "--validate=strict", "-f", path]).await?;
            kubectl(workspace, &["apply", "--validate=strict", "-f", path]).await?;
            let names = kubectl(workspace, &["get", "infsvc", "-o", "name"]).await?;
            for name in names.lines().filter_map(|line| line.split('/').nth(1)) {
                // Accepted: it has its Deployment, so nothing was wrong with the manifest.
                until(&format!("{path}: {name} has its objects"), Duration::from_secs(20), async || {
                    let service = workspace.services().get(name).await?;
                    let pool = if service.spec.placement.gpu.is_some() { "gpu" } else { "cpu" };
                    Ok(match workspace.deployment(name, pool).await {
                        Ok(_) => Look::Break(()),
                        Err(error) => Look::Continue(format!("{error}: {:?}", service.status)),
                    })
                })
                .await?;
            }
            // These need a volume, a store or an image that the local cluster does not have.
            let elsewhere = ["pvc-model.yaml", "s3-model.yaml", "triton.yaml", "custom-server.yaml"]
                .iter()
                .any(|file| path.ends_with(file));
            if cfg!(feature = "full") && !elsewhere {
                for name in names.lines().filter_map(|line| line.split('/').nth(1)) {
                    workspace.ready(name, Duration::from_mins(3)).await?;
                }
            }
            kubectl(workspace, &["delete", "--wait=false", "-f", path]).await?;
        }
        Ok(())
    })
    .await
}

/// `KServe` has a kind of the same name. With its CRD beside ours, our short name still means ours.
#[tokio::test]
async fn the_short_name_is_ours_beside_kserve() -> Outcome {
    with_namespace(async |workspace| {
        let definitions: Api<CustomResourceDefinition> = Api::all(workspace.cluster.client.clone());
        let name = "inferenceservices.serving.kserve.io";
        let theirs: CustomResourceDefinition = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "group": "serving.kserve.io", "scope": "Namespaced",
                "names": {"kind": "InferenceService", "plural": "inferenceservices", "singular": "inferenceservice", "shortNames": ["isvc"]},
                "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }}}],
            },
        }))?;
        definitions.create(&PostParams::default(), &theirs).await?;
        let outcome = beside(workspace).await;
        definitions.delete(name, &DeleteParams::background()).await?;
        until("the other CRD is gone", Duration::from_mins(1), async || {
            Ok(match definitions.get_opt(name).await? {
                None => Look::Break(()),
                Some(_) => Look::Continue("it is there".to_owned()),
            })
        })
        .await?;
        outcome
    })
    .await
}

async fn beside(workspace: &Workspace) -> Outcome {
    until("both kinds are served", Duration::from_mins(1), async || {
        Ok(match kubectl(workspace, &["get", "isvc"]).await {
            Ok(_) => Look::Break(()),
            Err(error) => Look::Continue(error.to_string()),
        })
    })
    .await?;
    workspace.apply(&timer("ours", &json!({}))).await?;
    for ours in ["infsvc", "inferenceservices.flotilla.dev"] {
        let names = kubectl(workspace, &["get", ours, "-o", "name"]).await?;
        ensure!(names.trim() == "inferenceservice.flotilla.dev/ours", "{ours} means {names}");
    }
    let theirs = kubectl(workspace, &["get", "isvc", "-o", "name"]).await?;
    ensure!(theirs.trim().is_empty(), "KServe's short name shows ours: {theirs}");
    // The operator goes on, with a kind of the same name in the cluster.
    workspace.ready("ours", Duration::from_secs(90)).await?;
    Ok(())
}
