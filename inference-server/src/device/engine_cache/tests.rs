//! The cache on a real folder: what a second server finds, and what it does when the first one failed.

use std::{collections::BTreeSet, sync::mpsc};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn key(model: &str) -> Key {
    Key::new([("model_sha256", model)])
}

fn cache(root: &Path) -> Cache {
    Cache::open(root, 1000).unwrap()
}

fn build(cache: &Cache, key: &Key, content: &[u8]) {
    let Lookup::Missing(build) = cache.find(key, PATIENCE).unwrap() else { panic!("nothing was built yet") };
    fs::write(build.folder().join("a.engine"), content).unwrap();
    build.commit().unwrap();
}

fn found(cache: &Cache, key: &Key) -> Option<Vec<u8>> {
    match cache.find(key, PATIENCE).unwrap() {
        Lookup::Found(entry) => Some(fs::read(entry.folder().join("a.engine")).unwrap()),
        Lookup::Missing(_) => None,
    }
}

fn names(root: &Path) -> BTreeSet<String> {
    fs::read_dir(root.join("engines")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_was_built_is_found_by_its_key_alone() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    build(&cache, &key("a"), b"engine");
    assert_eq!(found(&cache, &key("a")), Some(b"engine".to_vec()));
    assert_eq!(found(&cache, &key("b")), None);
    // Neither the failed look-up nor the build leaves anything else behind.
    assert_eq!(names(root.path()), BTreeSet::from([key("a").digest().to_owned()]));
}

#[test]
fn a_corrupt_entry_is_moved_aside_and_built_again() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    for (name, file, content) in [
        ("a changed byte", "a.engine", Some("enginE")),
        ("a short file", "a.engine", Some("eng")),
        ("a missing file", "a.engine", None),
        ("no manifest", "manifest.json", None),
        ("half a manifest", "manifest.json", Some("{\"version\":1,")),
    ] {
        build(&cache, &key("a"), b"engine");
        let path = root.path().join("engines").join(key("a").digest()).join(file);
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        assert_eq!(found(&cache, &key("a")), None, "{name}");
        assert!(names(root.path()).iter().any(|name| name.starts_with(BAD)), "{name}");
    }
    // However often that happens, what is kept of it is bounded by the next build.
    build(&cache, &key("a"), b"engine");
    assert_eq!(names(root.path()).len(), 2);
}

#[test]
fn an_entry_that_can_not_be_used_is_built_again() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    build(&cache, &key("a"), b"engine of another driver");
    let Lookup::Found(entry) = cache.find(&key("a"), PATIENCE).unwrap() else { panic!("it is there") };
    cache.reject(entry).unwrap();
    assert_eq!(found(&cache, &key("a")), None);
}

#[test]
fn a_build_that_ends_early_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    let Lookup::Missing(unfinished) = cache.find(&key("a"), PATIENCE).unwrap() else { panic!("nothing is there") };
    fs::write(unfinished.folder().join("a.engine"), b"half").unwrap();
    drop(unfinished);
    assert_eq!(names(root.path()), BTreeSet::new());
    assert_eq!(found(&cache, &key("a")), None);
}

#[test]
fn a_second_server_waits_for_the_first_and_builds_nothing() {
    let root = tempfile::tempdir().unwrap();
    let first = cache(root.path());
    let Lookup::Missing(build) = first.find(&key("a"), PATIENCE).unwrap() else { panic!("nothing is there") };
    let second = cache(root.path());
    let (started, is_started) = mpsc::channel();
    let waiting = thread::spawn(move || {
        started.send(()).unwrap();
        found(&second, &key("a"))
    });
    is_started.recv().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "the second server must wait");
    fs::write(build.folder().join("a.engine"), b"engine").unwrap();
    build.commit().unwrap();
    assert_eq!(waiting.join().unwrap(), Some(b"engine".to_vec()));
}

#[test]
fn patience_ends_and_the_slower_of_two_builds_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    let Lookup::Missing(slow) = cache.find(&key("a"), PATIENCE).unwrap() else { panic!("nothing is there") };
    let Lookup::Missing(fast) = cache.find(&key("a"), Duration::ZERO).unwrap() else { panic!("nothing is there") };
    fs::write(fast.folder().join("a.engine"), b"fast").unwrap();
    fast.commit().unwrap();
    fs::write(slow.folder().join("a.engine"), b"slow").unwrap();
    slow.commit().unwrap();
    assert_eq!(found(&cache, &key("a")), Some(b"fast".to_vec()));
    assert_eq!(names(root.path()).len(), 1);
}

#[test]
fn the_folder_stays_within_its_size_and_keeps_what_is_used() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    build(&cache, &key("used"), &[1; 300]);
    let Lookup::Found(in_use) = cache.find(&key("used"), PATIENCE).unwrap() else { panic!("it is there") };
    build(&cache, &key("second"), &[2; 300]);
    build(&cache, &key("third"), &[3; 600]);
    let kept = names(root.path());
    assert!(kept.contains(key("third").digest()), "what was just built stays: {kept:?}");
    assert!(kept.contains(key("used").digest()), "what another server reads stays: {kept:?}");
    assert!(!kept.contains(key("second").digest()), "the oldest that is free goes: {kept:?}");
    drop(in_use);
}

#[test]
fn a_decision_is_remembered_and_a_broken_one_is_none() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    assert_eq!(cache.recall::<Vec<u32>>(&key("a")), None);
    cache.remember(&key("a"), &vec![1, 2]).unwrap();
    assert_eq!(cache.recall::<Vec<u32>>(&key("a")), Some(vec![1, 2]));
    fs::write(root.path().join("choices").join(format!("{}.json", key("a").digest())), "[1,").unwrap();
    assert_eq!(cache.recall::<Vec<u32>>(&key("a")), None);
    cache.remember(&key("a"), &vec![3]).unwrap();
    cache.forget(&key("a"));
    assert_eq!(cache.recall::<Vec<u32>>(&key("a")), None);
}

#[test]
fn a_build_begins_with_what_the_one_before_has_learnt() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path());
    let gpu = Key::new([("compute_capability", "8.9")]);
    for (model, before, after) in [("a", None, "one"), ("b", Some("one"), "two"), ("c", Some("two"), "three")] {
        let Lookup::Missing(build) = cache.find(&key(model), PATIENCE).unwrap() else { panic!("nothing is there") };
        build.take_timing(&gpu);
        let file = build.folder().join("cache_sm89.timing");
        assert_eq!(fs::read_to_string(&file).ok().as_deref(), before, "{model}");
        fs::write(&file, after).unwrap();
        fs::write(build.folder().join("a.engine"), "not learnt").unwrap();
        build.give_timing(&gpu);
    }
    let kept: Vec<_> = fs::read_dir(root.path().join("timing").join(gpu.digest())).unwrap().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

#[test]
fn a_place_that_can_not_be_written_is_told() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Cache::open(&file, 1000).unwrap_err().to_string();
    assert!(error.contains("can't be used: a folder can't be made"), "{error}");
}
