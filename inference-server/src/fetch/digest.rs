//! Digests as `sha256sum` prints them, of a file and of a folder.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// Lower-case hexadecimal.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Hashes a file's first `bytes`, or all of it where it has fewer.
///
/// # Errors
/// When it can't be read.
pub fn of_start(path: &Path, bytes: u64) -> io::Result<Sha256> {
    let mut file = File::open(path)?.take(bytes);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(hash);
        }
        hash.update(&chunk[..count]);
    }
}

/// The digest of a folder: of the lines `DIGEST  PATH` of all its files, in the order of the paths' bytes. The same as
/// `find * -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum` in the folder.
pub fn of_folder<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut files: Vec<_> = files.collect();
    files.sort_unstable();
    let mut hash = Sha256::new();
    for (path, digest) in files {
        hash.update(format!("{digest}  {path}\n"));
    }
    hex(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the command in the documentation printed for these two files.
    #[test]
    fn a_folder_has_the_digest_that_the_documented_command_prints() {
        let folder = tempfile::tempdir().unwrap();
        let files = [("config.pbtxt", "name: \"clip\"\n"), ("1/model.onnx", "weights")];
        let digests = files.map(|(path, text)| {
            let file = folder.path().join(path.replace('/', "-"));
            std::fs::write(&file, text).unwrap();
            (path, hex(of_start(&file, u64::MAX).unwrap()))
        });
        let digest = of_folder(digests.iter().map(|(path, digest)| (*path, digest.as_str())));
        assert_eq!(digest, "f83fe70c3eea9f5f0a95a72616fac082d87a9a0334c2670174930e09d828e471");
    }
}
