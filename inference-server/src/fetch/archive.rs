//! Unpacks a tar archive of plain files and folders. Links, devices and paths that lead out end it, for an archive may come
//! from anywhere; so do too many entries and too much content for its size.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write as _},
    path::Path,
    rc::Rc,
    time::Instant,
};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::{Error, MAX_FILES, budget::Budget, paths::confined, uri::Kind};

/// Content may be this many times the archive's size: weights compress by a tenth, a bomb by a thousand.
const MAX_RATIO: u64 = 100;
/// Content that is no bomb at any ratio.
const SMALL_BYTES: u64 = 16 << 20;
/// What may be read before an entry's content: its headers, with a long name among them.
const HEADER_BYTES: u64 = 256 << 10;
/// Read and written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What bounds an archive's content.
#[derive(Debug)]
pub struct Limits<'a> {
    /// Room on the disk.
    pub budget: &'a Budget,
    /// When unpacking has to be done.
    pub deadline: Instant,
}

/// Unpacks `archive` into the empty folder `target`. `place` names it in messages.
///
/// # Errors
/// [`Error::Archive`] with the entry that is not unpacked.
pub fn unpack(archive: &Path, kind: Kind, target: &Path, place: &str, limits: &Limits<'_>) -> Result<(), Error> {
    let file = File::open(archive).map_err(Error::destination(archive))?;
    let size = file.metadata().map_err(Error::destination(archive))?.len();
    let reader = BufReader::with_capacity(CHUNK_BYTES, file);
    let content: Box<dyn Read> =
        if kind == Kind::TarGz { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let meter = Rc::new(Meter {
        all: Cell::new(size.saturating_mul(MAX_RATIO).max(SMALL_BYTES)),
        now: Cell::new(HEADER_BYTES),
    });
    let mut tar = Archive::new(Metered { content, meter: Rc::clone(&meter) });
    let mut unpacking = Unpacking { target, place, limits, chunk: vec![0; CHUNK_BYTES] };
    let entries = tar.entries().map_err(|error| unpacking.invalid(&error.to_string()))?;
    for (index, entry) in entries.enumerate() {
        if index == MAX_FILES {
            return Err(unpacking.invalid(&format!("it has more than {MAX_FILES} entries")));
        }
        let entry = entry.map_err(|error| unpacking.invalid(&format!("it is no whole tar archive: {error}")))?;
        meter.now.set(u64::MAX);
        unpacking.entry(entry)?;
        meter.now.set(HEADER_BYTES);
    }
    Ok(())
}

/// How much more may be inflated: in all, and before the next content. The crate keeps headers in memory whatever their size.
struct Meter {
    all: Cell<u64>,
    now: Cell<u64>,
}

struct Metered<R> {
    content: R,
    meter: Rc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        for (left, problem) in [
            (&self.meter.all, "its content is more than 100 times its size"),
            (&self.meter.now, "an entry's header has more than 256 KiB"),
        ] {
            left.set(left.get().checked_sub(bytes).ok_or_else(|| io::Error::other(problem))?);
        }
        Ok(count)
    }
}

struct Unpacking<'a> {
    target: &'a Path,
    place: &'a str,
    limits: &'a Limits<'a>,
    chunk: Vec<u8>,
}

impl Unpacking<'_> {
    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), Error> {
        let raw = entry.path_bytes().into_owned();
        let name = String::from_utf8(raw).map_err(|_| self.invalid("an entry's path is no UTF-8"))?;
        let shown = name.escape_debug().to_string();
        let path = confined(&name)
            .map_err(|problem| self.invalid(&format!("the path of the entry {shown:.100} {problem}")))?;
        let path = self.target.join(path);
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&path).map_err(Error::destination(&path)),
            EntryType::Regular | EntryType::Continuous => {
                if path == self.target {
                    return Err(self.invalid("an entry has no name"));
                }
                self.file(&mut entry, &path, &shown)
            }
            // Notes of pax to whoever unpacks; the crate has read what it needs of them.
            EntryType::XGlobalHeader | EntryType::XHeader => Ok(()),
            other => Err(self.invalid(&format!("the entry {shown:.100} is neither a file nor a folder ({other:?})"))),
        }
    }

    fn file(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path, shown: &str) -> Result<(), Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::destination(folder))?;
        }
        // Never over something that is there: no entry replaces another, and nothing is followed.
        let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.invalid(&format!("the entry {shown:.100} is there twice")));
            }
            other => other.map_err(Error::destination(path))?,
        };
        let mut copied = 0;
        loop {
            if Instant::now() >= self.limits.deadline {
                return Err(Error::Archive {
                    place: self.place.to_owned(),
                    problem: "unpacking it takes too long".to_owned(),
                });
            }
            let count = entry
                .read(&mut self.chunk)
                .map_err(|error| self.invalid(&format!("the entry {shown:.100} can't be read: {error}")))?;
            if count == 0 {
                break;
            }
            let bytes = u64::try_from(count).unwrap_or(u64::MAX);
            self.limits.budget.take(bytes, &format!("{} with its content", self.place))?;
            file.write_all(&self.chunk[..count]).map_err(Error::destination(path))?;
            copied += bytes;
        }
        if copied < entry.size() {
            return Err(self.invalid(&format!("it ends within the entry {shown:.100}")));
        }
        Ok(())
    }

    fn invalid(&self, problem: &str) -> Error {
        Error::Archive { place: self.place.to_owned(), problem: problem.to_owned() }
    }
}
