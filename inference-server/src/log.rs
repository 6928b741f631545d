//! The log on standard error, the same for every program of this package.
//!
//! Lines go through an [`Outbox`] to a thread that writes them, so that whoever reads the log can't stop the server by not reading.

use std::{
    io::{self, IsTerminal as _, Write as _, stderr},
    sync::{
        OnceLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::outbox::Outbox;

/// The most bytes of lines that wait to be written. Beyond them lines are dropped and counted.
pub const MAX_BYTES: usize = 4 << 20;
/// How long a line of the access log may wait for others to be written with it.
const LINGER: Duration = Duration::from_millis(50);
/// How long the last lines may take.
const FLUSH: Duration = Duration::from_secs(1);

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: Outbox<Vec<u8>>,
    is_json: bool,
}

/// Writes the last lines when it is dropped, within a second.
#[derive(Debug)]
pub struct Guard(Option<Receiver<()>>);

/// Begins to log; called once. `format` is `json` or `text`, `level` a tracing filter.
pub fn start(format: &str, level: &str) -> Guard {
    let is_json = format == "json";
    let log = LOG.get_or_init(|| Log { lines: Outbox::new(MAX_BYTES), is_json });
    let (done, ended) = channel();
    let write = move || {
        while let Some(lines) = log.lines.take(LINGER) {
            // There is nowhere to complain to.
            drop(stderr().write_all(&lines.concat()));
        }
        drop(done);
    };
    let thread = thread::Builder::new().name("log".to_owned()).spawn(write);
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_ansi(stderr().is_terminal());
    match (thread, is_json) {
        (Ok(_), true) => builder.json().with_writer(ToOutbox).init(),
        (Ok(_), false) => builder.with_writer(ToOutbox).init(),
        // The system gives no thread; what is to be said now matters more than who may wait for it.
        (Err(_), true) => builder.json().with_writer(stderr).init(),
        (Err(_), false) => builder.with_writer(stderr).init(),
    }
    Guard(Some(ended))
}

/// Whether lines are JSON; none where no log has begun.
pub fn is_json() -> Option<bool> {
    LOG.get().map(|log| log.is_json)
}

/// Puts a whole line out with the next ones, or drops it where there is no room.
pub fn put(line: Vec<u8>) {
    if let Some(log) = LOG.get() {
        let weight = line.len();
        log.lines.put(line, weight, false);
    }
}

/// How many lines were dropped.
pub fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.lines.dropped())
}

/// What events are written to, each with one call.
struct ToOutbox;

impl MakeWriter<'_> for ToOutbox {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for ToOutbox {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            log.lines.put(line.to_vec(), line.len(), true);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let (Some(log), Some(ended)) = (LOG.get(), self.0.take()) {
            log.lines.close();
            // The thread has nothing to say; it hangs up when it is done.
            let _hung_up = ended.recv_timeout(FLUSH);
        }
    }
}
