//! Invariants of the tree that the compiler does not hold: the direction of imports, generated files, leftovers.

use std::fs;
use std::path::{Path, PathBuf};

use kube::CustomResourceExt as _;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let root = Path::new(&root);
    let mut folders = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no source: the scan looks in the wrong place");
    files
}

/// What each folder may import, as ARCHITECTURE.md draws it.
#[test]
fn imports_flow_one_way() {
    let layers = [
        ("src/api", &["api"][..]),
        ("src/service", &["api", "service", "fixtures"]),
        ("src/scaling", &["scaling"]),
        ("src/placement", &["api", "service", "placement", "fixtures"]),
        ("src/resources", &["api", "service", "placement", "resources", "fixtures"]),
        ("src/scrape", &["scaling", "scrape"]),
        ("src/scaler", &["scaling", "scaler"]),
        ("src/simulate", &["scaling", "scrape", "simulate"]),
        ("src/explain", &["scaling", "explain"]),
        ("src/cli", &["api", "explain", "scaling", "simulate", "cli", "fixtures"]),
        ("src/telemetry", &["telemetry"]),
    ];
    for (folder, allowed) in layers {
        for (path, text) in sources(folder) {
            for import in text.split("crate::").skip(1) {
                let module = import.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default();
                assert!(
                    allowed.contains(&module),
                    "{} imports crate::{module}; {folder} may use {allowed:?}",
                    path.display()
                );
            }
        }
    }
}

/// Time is an argument there, reasons are returned as data, and nothing waits.
#[test]
fn the_pure_folders_have_no_clock_no_client_and_no_log() {
    let banned = [
        "async fn",
        ".await",
        "Instant::now",
        "SystemTime",
        "Timestamp::now",
        "kube::Client",
        "reqwest",
        "tracing::",
        "tokio::",
        "rand::",
    ];
    for folder in ["src/api", "src/service", "src/scaling", "src/placement", "src/resources"] {
        for (path, text) in sources(folder) {
            for word in banned {
                assert!(!text.contains(word), "{} has `{word}`, which a pure folder may not", path.display());
            }
        }
    }
}

/// A run of the simulator is a function of its arguments; its random numbers are seeded.
#[test]
fn the_simulator_has_no_clock_no_file_and_no_log() {
    let banned = [
        "async fn",
        ".await",
        "Instant::now",
        "SystemTime",
        "Timestamp::now",
        "reqwest",
        "tracing::",
        "tokio::",
        "std::fs",
        "std::env",
        "Rng::new()",
    ];
    for (path, text) in sources("src/simulate") {
        for word in banned {
            assert!(!text.contains(word), "{} has `{word}`, which the simulator may not", path.display());
        }
    }
}

/// Replicas have one writer: nobody else names the field of a Deployment.
#[test]
fn only_the_scale_step_writes_replicas() {
    for (path, text) in sources("src/resources") {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(path.ends_with("tests.rs") || !code.contains("replicas: Some"), "{} sets replicas", path.display());
    }
}

#[test]
fn nothing_is_left_behind() {
    for folder in ["src", "inference-server/src", "e2e"] {
        for (path, text) in sources(folder) {
            if path.ends_with("tidy.rs") {
                continue;
            }
            for word in ["todo!(", "dbg!(", "unimplemented!(", "FIXME"] {
                assert!(!text.contains(word), "{} has `{word}`", path.display());
            }
        }
    }
}

#[test]
fn the_generated_crd_is_up_to_date() {
    let path =
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("crds/inferenceservices.flotilla.dev.yaml");
    let generated = serde_saphyr::to_string(&crate::api::InferenceService::crd()).unwrap();
    let committed = fs::read_to_string(path).unwrap();
    assert!(committed.ends_with(&generated), "crds/ is out of date: run make generate");
}

/// Each word that the status, an Event or a metric may have as the reason of a decision is explained, once.
#[test]
fn every_reason_is_documented_once() {
    let page = include_str!("../docs/scaling.md");
    let (_, table) = page.split_once("## Reasons").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let mut documented: Vec<&str> = rows.map(|(reason, _)| reason).filter(|reason| *reason != "reason").collect();
    documented.retain(|reason| !reason.starts_with("---"));
    let mut reasons = crate::scaling::Reason::ALL.map(crate::scaling::Reason::as_str).to_vec();
    // Not the law's.
    reasons.extend([crate::api::scaling::ScalingMode::External.as_str(), crate::api::scaling::PAUSED]);
    documented.sort_unstable();
    reasons.sort_unstable();
    assert_eq!(documented, reasons);
}

#[test]
fn every_example_is_of_this_version() {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("examples");
    let mut services = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for document in fs::read_to_string(&path).unwrap().split("\n---\n") {
            if document.lines().any(|line| line == "kind: InferenceService") {
                let service: Result<crate::api::InferenceService, _> = serde_saphyr::from_str(document);
                assert!(service.is_ok(), "{}: {:?}", path.display(), service.err());
                services += 1;
            }
        }
    }
    assert!(services > 0, "no example holds an InferenceService");
}
