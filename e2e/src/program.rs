//! Flotilla's own programs, as a user runs them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::Outcome;

/// A program of this workspace, compiled from the sources that this test was compiled from.
///
/// # Errors
/// It does not compile.
pub async fn compiled(name: &str) -> Outcome<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().find(|folder| folder.ends_with("debug") || folder.ends_with("release"));
    let profile = profile.ok_or("this test is not where cargo puts it")?;
    let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    build.args(["build", "--quiet", "--package", "flotilla", "--bin", name]);
    build.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    build.arg("--target-dir").arg(profile.parent().ok_or("no target folder")?);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    ensure!(build.status().await?.success(), "{name} does not compile");
    Ok(profile.join(name))
}

/// What the command line tool prints to standard output.
///
/// # Errors
/// It fails: with what it said.
pub async fn flotilla(arguments: &[&str]) -> Outcome<String> {
    let program = compiled("flotilla").await?;
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "flotilla {}: {}: {said}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}
