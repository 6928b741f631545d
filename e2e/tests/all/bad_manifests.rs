//! Ten manifests that can't work: each is answered with the field and the fix, and none makes the operator busy.

use std::path::Path;
use std::time::Duration;

use flotilla::api::InferenceService;
use flotilla_e2e::table::Table;
use flotilla_e2e::workspace::condition;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, operator, throughout, until, with_namespace};
use kube::api::{Patch, PatchParams, ValidationDirective};
use serde_json::Value;

const WRITES: &str = "flotilla_operator_api_writes_total";
const VISITS: &str = "flotilla_operator_reconciles_total";
const WATCHED: Duration = Duration::from_secs(20);
const MOST_WRITES: f64 = 15.0;
const MOST_VISITS: f64 = 80.0;

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
        let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("manifests/bad");
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
        // What was accepted stays, and must not keep the operator busy. A pod that fails again and again changes now and then,
        // and the status with it; a loop would make hundreds of each.
        let count = async |name| operator::metric(&workspace.cluster, name).await;
        let (writes, visits) = (count(WRITES).await?, count(VISITS).await?);
        throughout("the operator is not busy", WATCHED, async || {
            let (writes, visits) = (count(WRITES).await? - writes, count(VISITS).await? - visits);
            let calm = writes <= MOST_WRITES && visits <= MOST_VISITS;
            Ok(if calm { Ok(()) } else { Err(format!("{writes} writes and {visits} visits")) })
        })
        .await?;
        let (writes, visits) = (count(WRITES).await? - writes, count(VISITS).await? - visits);
        let mut table = Table::new(format!("The operator in the {WATCHED:?} after"), &["what", "count", "at most"]);
        table.row(["writes".to_owned(), writes.to_string(), MOST_WRITES.to_string()]);
        table.row(["visits".to_owned(), visits.to_string(), MOST_VISITS.to_string()]);
        table.print();
        Ok(())
    })
    .await
}
