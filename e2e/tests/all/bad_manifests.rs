//! Ten manifests that can't work: each is answered with the field and the fix, and none makes the operator busy.

use std::path::Path;
use std::time::Duration;

use flotilla::api::InferenceService;
use flotilla_e2e::table::Table;
use flotilla_e2e::workspace::condition;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, operator, throughout, until, with_namespace};
use kube::api::{Patch, PatchParams, ValidationDirective};
use serde_json::Value;

/// What the first lines of a manifest say of the answer: `# says: text`, once or more.
fn expected(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("# says: ")).map(|part| part.trim().to_owned()).collect()
}

/// Who answered, and what.
async fn answer(workspace: &Workspace, manifest: &Value, name: &str) -> Outcome<(&'static str, String)> {
    let mut strict = PatchParams::apply("user");
    strict.field_validation = Some(ValidationDirective::Strict);
    let services = workspace.services();
    if let Err(error) = services.patch(name, &strict, &Patch::Apply(manifest)).await {
        return match error {
            kube::Error::Api(status) => Ok(("API server", status.message.clone())),
            other => Err(other.into()),
        };
    }
    let (message, _) = until(&format!("{name} is told what is wrong"), Duration::from_secs(45), async || {
        let service: InferenceService = services.get(name).await?;
        let told = ["Ready", "Placed"]
            .into_iter()
            .filter_map(|kind| condition(&service, kind))
            .find(|condition| condition.status == "False" && condition.reason != "Starting");
        Ok(match told {
            Some(told) => Look::Break(format!("{}: {}", told.reason, told.message)),
            None => Look::Continue(format!("{:?}", service.status)),
        })
    })
    .await?;
    Ok(("status", message))
}

#[tokio::test]
async fn each_bad_manifest_is_answered_with_the_field_and_the_fix() -> Outcome {
    with_namespace(async |workspace| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/bad");
        let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
        files.sort();
        ensure!(files.len() >= 10, "there are only {} bad manifests", files.len());
        let mut table = Table::new("Bad manifests", &["manifest", "who says it", "what is said"]);
        let mut wrong = Vec::new();
        for file in &files {
            let text = std::fs::read_to_string(file)?;
            let manifest: Value = serde_saphyr::from_str(&text)?;
            let name = manifest["metadata"]["name"].as_str().ok_or("no name")?;
            let short = file.file_stem().unwrap_or_default().to_string_lossy();
            let parts = expected(&text);
            ensure!(!parts.is_empty(), "{short} does not say what it expects");
            let (who, message) =
                answer(workspace, &manifest, name).await.map_err(|error| format!("{short}: {error}"))?;
            let lost: Vec<_> = parts.iter().filter(|part| !message.contains(part.as_str())).collect();
            if !lost.is_empty() {
                wrong.push(format!("{short}: the answer lacks {lost:?}: {message}"));
            }
            table.row([short.as_ref(), who, message.as_str()]);
        }
        table.print();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        // What was accepted stays, and must not keep the operator busy: no write, and no more visits than looking in costs.
        let mut quiet_since = (std::time::Instant::now(), operator::writes(&workspace.cluster).await?);
        until("the operator's writes come to rest", Duration::from_mins(2), async || {
            let now = operator::writes(&workspace.cluster).await?;
            if now > quiet_since.1 {
                quiet_since = (std::time::Instant::now(), now);
            }
            let rested = quiet_since.0.elapsed() > Duration::from_secs(10);
            Ok(if rested { Look::Break(()) } else { Look::Continue(format!("{now} writes")) })
        })
        .await?;
        throughout("the operator writes nothing", Duration::from_secs(10), async || {
            let now = operator::writes(&workspace.cluster).await?;
            Ok(if now > quiet_since.1 { Err(format!("{} writes", now - quiet_since.1)) } else { Ok(()) })
        })
        .await
    })
    .await
}
