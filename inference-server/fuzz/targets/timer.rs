//! A model that takes no time, for the targets that need a server.

/// Its folder: four numbers in and out.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let version = folder.path().join("1");
    std::fs::create_dir(&version).expect("a version");
    std::fs::write(version.join("timer.json"), r#"{"alphaMicroseconds":0,"tau0Microseconds":0,"dims":[4]}"#)
        .expect("a model");
    folder
}
