//! Loading and unloading while the server runs, with timers in place of models.

use std::{fs, path::Path, sync::Arc, time::Duration};

use serde_json::json;

use super::{IndexEntry, ModelError, Repository, State};

fn add(folder: &Path, name: &str, config: &str) {
    let version = folder.join(name).join("1");
    fs::create_dir_all(&version).unwrap();
    fs::write(version.join("timer.json"), r#"{"alphaMicroseconds":0,"tau0Microseconds":0,"dims":[4]}"#).unwrap();
    fs::write(folder.join(name).join("config.pbtxt"), config).unwrap();
}

/// A repository with the models `a` and `b`, after the start.
fn open(folder: &Path, settings: serde_json::Value) -> Arc<Repository> {
    add(folder, "a", "max_batch_size: 4");
    add(folder, "b", "");
    let mut all = settings;
    all["version"] = json!(1);
    all["modelRepository"] = json!(folder);
    let settings: crate::settings::Settings = serde_json::from_value(all).unwrap();
    settings.check().unwrap();
    let repository = Repository::open(settings, None).unwrap();
    repository.load_all().unwrap();
    repository
}

fn states(repository: &Repository) -> Vec<(String, State, String)> {
    let line = |IndexEntry { name, state, reason, .. }| (name, state, reason);
    repository.index().into_iter().map(line).collect()
}

fn state(name: &str, state: State, reason: &str) -> (String, State, String) {
    (name.to_owned(), state, reason.to_owned())
}

#[tokio::test]
async fn without_control_nothing_changes_after_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path(), json!({}));
    assert!(repository.is_ready());
    assert_eq!(repository.load("a", None).await, Err(ModelError::ControlDisabled));
    assert_eq!(repository.unload("a").await, Err(ModelError::ControlDisabled));
    assert_eq!(states(&repository), [state("a", State::Ready, ""), state("b", State::Ready, "")]);
}

#[tokio::test]
async fn under_control_only_the_named_are_loaded_and_clients_load_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path(), json!({"modelControlMode": "Explicit", "loadModels": ["a"]}));
    assert!(repository.is_ready(), "b is not asked for");
    assert_eq!(states(&repository), [state("a", State::Ready, ""), state("b", State::Unavailable, "")]);
    repository.load("b", None).await.unwrap();
    assert_eq!(repository.model("b", Some("1")).unwrap().version, "1");
    add(folder.path(), "late", "");
    repository.load("late", None).await.unwrap();
    assert_eq!(repository.servings().len(), 3);
    for name in ["none", "..", "../a", ""] {
        assert_eq!(repository.load(name, None).await, Err(ModelError::Unknown(name.to_owned())));
        assert_eq!(repository.unload(name).await, Err(ModelError::Unknown(name.to_owned())));
    }
}

#[tokio::test]
async fn an_unload_waits_for_the_requests_that_the_model_has() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path(), json!({"modelControlMode": "Explicit", "loadModels": ["*"]}));
    let held = repository.model("a", None).unwrap();
    let unload = tokio::spawn({
        let repository = Arc::clone(&repository);
        async move { repository.unload("a").await }
    });
    while repository.model("a", None).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!unload.is_finished(), "a request still has the model");
    assert_eq!(states(&repository)[0], state("a", State::Unloading, ""));
    drop(held);
    unload.await.unwrap().unwrap();
    assert_eq!(states(&repository)[0], state("a", State::Unavailable, "unloaded"));
    assert!(repository.is_ready(), "it was unloaded on purpose");
    assert!(!repository.metrics_page().contains("model=\"a\""));
    repository.unload("a").await.unwrap();
    repository.load("a", None).await.unwrap();
    assert_eq!(states(&repository)[0], state("a", State::Ready, ""));
}

#[tokio::test]
async fn a_load_that_fails_leaves_the_older_model_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path(), json!({"modelControlMode": "Explicit", "loadModels": ["*"]}));
    let before = repository.model("a", None).unwrap();
    add(folder.path(), "a", "ensemble_scheduling {}");
    let error = repository.load("a", None).await.unwrap_err().to_string();
    assert!(error.contains("failed to load 'a'") && error.contains("ensemble_scheduling is not supported"), "{error}");
    let after = repository.model("a", None).unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    let index = states(&repository);
    assert_eq!(index[0].1, State::Ready);
    assert!(index[0].2.contains("ensemble_scheduling"), "{index:?}");
    add(folder.path(), "broken", "max_batch_size: -1");
    repository.load("broken", None).await.unwrap_err();
    assert_eq!(repository.model("broken", None).err(), Some(ModelError::NotReady));
    assert!(repository.is_ready(), "a client's failed load is told to the client and in the index");
}

#[tokio::test]
async fn a_configuration_in_the_request_takes_the_place_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path(), json!({"modelControlMode": "Explicit", "loadModels": ["*"]}));
    assert_eq!(repository.model("a", None).unwrap().config.max_batch_size, 4);
    repository.load("a", Some(r#"{"max_batch_size": 2, "backend": ""}"#.to_owned())).await.unwrap();
    assert_eq!(repository.model("a", None).unwrap().config.max_batch_size, 2);
    for bad in [r#"{"max_batch_size": "two"}"#, r#"{"surprise": 1}"#, "", "[]"] {
        let error = repository.load("a", Some(bad.to_owned())).await.unwrap_err().to_string();
        assert!(error.contains("the configuration is not understood"), "{error}");
    }
    repository.load("a", None).await.unwrap();
    assert_eq!(repository.model("a", None).unwrap().config.max_batch_size, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_and_unloads_at_once_end_in_order_and_requests_never_see_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path(), json!({"modelControlMode": "Explicit", "loadModels": ["*"]}));
    let change = |index: usize| {
        let repository = Arc::clone(&repository);
        async move {
            match index % 3 {
                0 => repository.load("a", None).await,
                1 => repository.load("b", None).await,
                _ => repository.unload("b").await,
            }
        }
    };
    let changes: Vec<_> = (0..24).map(|index| tokio::spawn(change(index))).collect();
    while changes.iter().any(|change| !change.is_finished()) {
        assert!(repository.model("a", None).is_ok(), "a reload does not interrupt");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for change in changes {
        change.await.unwrap().unwrap();
    }
    repository.load("b", None).await.unwrap();
    assert_eq!(states(&repository), [state("a", State::Ready, ""), state("b", State::Ready, "")]);
}
