//! A model that pods fetch from an object store: what opens it comes from a Secret, what is wrong with it reaches the status.

use std::path::Path;
use std::time::Duration;

use flotilla_e2e::workspace::last_failure;
use flotilla_e2e::{Outcome, Workspace, ensure, node, timer, with_namespace};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const KEY: &str = "key-of-the-secret";
const LIMIT: Duration = Duration::from_mins(2);

/// The timer's model entry as an archive.
async fn archive() -> Outcome<Vec<u8>> {
    let model = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../images/timer");
    let output = Command::new("tar").arg("-C").arg(model).args(["-cf", "-", "."]).output().await?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// One object of a store, for whoever signs with the key. The signature is not checked: a real store is tested elsewhere.
async fn answer(mut client: TcpStream, object: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match client.read(&mut piece).await? {
            0 => return Ok(()),
            count => request.extend_from_slice(&piece[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let signed = request.contains(&format!("Credential={KEY}/"));
    let (status, body) =
        if signed { ("200 OK", object) } else { ("403 Forbidden", &b"<Code>InvalidAccessKeyId</Code>"[..]) };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"one\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nconnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    if !request.starts_with("HEAD") {
        client.write_all(body).await?;
    }
    client.shutdown().await
}

/// The store's address as pods reach it: the node's way out is this machine.
async fn store(workspace: &Workspace, object: Vec<u8>) -> Outcome<String> {
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // A client that goes away is the client's affair.
            let _ = answer(client, &object).await;
        }
    });
    let route = node::run(&workspace.cluster, &["ip", "route", "show", "default"]).await?;
    let gateway = route.split_whitespace().nth(2).ok_or("the node has no default route")?;
    Ok(format!("http://{gateway}:{port}"))
}

async fn secret(workspace: &Workspace, name: &str, endpoint: &str, key: &str) -> Outcome {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "stringData": {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "hidden"},
    });
    workspace.api::<Secret>().patch(name, &PatchParams::apply("user"), &Patch::Apply(&secret)).await?;
    Ok(())
}

#[tokio::test]
async fn a_model_is_fetched_with_a_secret_and_what_is_wrong_is_told() -> Outcome {
    with_namespace(async |workspace| {
        let endpoint = store(workspace, archive().await?).await?;
        secret(workspace, "wrong", &endpoint, "another-key").await?;
        secret(workspace, "right", &endpoint, KEY).await?;
        let from = |secret: &str, sha256: &str| {
            let uri = json!({"uri": "s3://models/timer.tar", "sha256": sha256, "secretRef": {"name": secret}, "maxMebibytes": 16});
            timer("fetched", &json!({"model": {"source": {"image": null, "uri": uri}}}))
        };
        let told = async |secret: &str, reason: &str, says: &str| -> Outcome<String> {
            workspace.apply(&from(secret, &"0".repeat(64))).await?;
            let (ready, _) = workspace.condition("fetched", "Ready", "False", Some(reason), LIMIT).await?;
            ensure!(ready.message.contains(says) && !ready.message.contains("hidden"), "{}", ready.message);
            Ok(ready.message)
        };
        told("none", "ContainerFailed", "\"none\" not found").await?;
        told("wrong", "SourceForbidden", "refused with status 403").await?;
        let message = told("right", "ChecksumMismatch", "s3://models/timer.tar has sha256 ").await?;
        let failure = last_failure(&workspace.services().get("fetched").await?).ok_or("no lastFailure")?;
        ensure!(failure.reason == "ChecksumMismatch", "{failure:?}");

        let sha256 = message.split("has sha256 ").nth(1).and_then(|rest| rest.get(..64)).ok_or("no digest")?;
        workspace.apply(&from("right", sha256)).await?;
        workspace.ready("fetched", LIMIT).await?;
        Ok(())
    })
    .await
}
