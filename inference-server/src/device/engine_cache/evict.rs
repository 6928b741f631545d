//! Keeps the cache within its size: what failed goes first, then what was used longest ago.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{BAD, Cache, NEW, manifest};

/// A build that has not ended after this time never will.
const ABANDONED: Duration = Duration::from_hours(24);
/// Entries that were found wrong are kept for whoever wants to know why, one of them.
const BAD_KEPT: usize = 1;

/// A folder under `engines`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder {
    name: String,
    bytes: u64,
    used: SystemTime,
}

/// Removes what is too much, but not `keep`, which was just built, and not what another process uses.
pub(super) fn evict(cache: &Cache, keep: &str) {
    let folders = folders(&cache.engines());
    let kept: Vec<String> =
        folders.iter().map(|f| f.name.clone()).filter(|name| name == keep || !is_free(cache, name)).collect();
    for name in superfluous(folders, &kept, cache.max_bytes, SystemTime::now()) {
        let path = cache.engines().join(&name);
        // Renamed first: a folder that is half removed must not look like an entry.
        let going = cache.engines().join(super::unique(BAD, "going"));
        let removed = fs::rename(&path, &going).and_then(|()| fs::remove_dir_all(&going));
        match removed {
            Ok(()) => tracing::info!(name, "removed from the engine cache, which is full or holds it no longer"),
            Err(error) => tracing::warn!(name, %error, "an entry of the engine cache can't be removed"),
        }
    }
}

/// Which folders go. Pure.
fn superfluous(mut folders: Vec<Folder>, kept: &[String], max_bytes: u64, now: SystemTime) -> Vec<String> {
    let age = |folder: &Folder| now.duration_since(folder.used).unwrap_or_default();
    folders.sort_by_key(|folder| folder.used);
    let bad: Vec<String> = folders.iter().filter(|f| f.name.starts_with(BAD)).map(|f| f.name.clone()).collect();
    let mut going: Vec<String> = bad[..bad.len().saturating_sub(BAD_KEPT)].to_vec();
    going.extend(folders.iter().filter(|f| f.name.starts_with(NEW) && age(f) >= ABANDONED).map(|f| f.name.clone()));
    let mut total: u64 = folders.iter().filter(|f| !going.contains(&f.name)).map(|f| f.bytes).sum();
    let rest: Vec<Folder> = folders
        .into_iter()
        .filter(|f| !going.contains(&f.name) && !kept.contains(&f.name) && !f.name.starts_with(NEW))
        .collect();
    let (bad, entries): (Vec<Folder>, Vec<Folder>) = rest.into_iter().partition(|f| f.name.starts_with(BAD));
    for folder in bad.into_iter().chain(entries) {
        if total <= max_bytes {
            break;
        }
        total = total.saturating_sub(folder.bytes);
        going.push(folder.name);
    }
    going
}

/// Whether no process reads or builds the entry.
fn is_free(cache: &Cache, name: &str) -> bool {
    if name.starts_with('.') {
        return true;
    }
    let lock = fs::File::options().write(true).open(cache.root.join("locks").join(name));
    lock.map_or(true, |lock| lock.try_lock().is_ok())
}

fn folders(engines: &Path) -> Vec<Folder> {
    let Ok(entries) = fs::read_dir(engines) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .map(|entry| {
            let path = entry.path();
            let marker = [path.join(manifest::FILE), path.clone()].into_iter().find(|path| path.exists());
            Folder {
                name: entry.file_name().to_string_lossy().into_owned(),
                bytes: bytes(&path),
                used: marker
                    .and_then(|path| fs::metadata(path).ok()?.modified().ok())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
            }
        })
        .collect()
}

fn bytes(folder: &PathBuf) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.filter_map(Result::ok).filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(1000);
        let folder =
            |name: &str, bytes, hours| Folder { name: name.to_owned(), bytes, used: now - Duration::from_hours(hours) };
        let all = vec![
            folder("young", 4, 1),
            folder("old", 4, 50),
            folder("older", 4, 90),
            folder("just-built", 2, 0),
            folder("read", 2, 95),
            folder(".new-abandoned", 1, 25),
            folder(".new-running", 1, 2),
            folder(".bad-first", 1, 9),
            folder(".bad-second", 1, 8),
        ];
        for (max_bytes, expected) in [
            (100, vec![".bad-first", ".new-abandoned"]),
            (18, vec![".bad-first", ".new-abandoned"]),
            (17, vec![".bad-first", ".new-abandoned", ".bad-second"]),
            (13, vec![".bad-first", ".new-abandoned", ".bad-second", "older"]),
            (0, vec![".bad-first", ".new-abandoned", ".bad-second", "older", "old", "young"]),
        ] {
            assert_eq!(
                superfluous(all.clone(), &["just-built".to_owned(), "read".to_owned()], max_bytes, now),
                expected,
                "{max_bytes}"
            );
        }
    }
}
