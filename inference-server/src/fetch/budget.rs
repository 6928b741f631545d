//! How many bytes may be stored, and how many have come: one count for the limit and for the log.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Error;

/// How often the log says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Bytes on disk, shared by everything that writes.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max_bytes: u64,
}

impl Budget {
    /// Nothing used of so many bytes.
    pub fn new(max_bytes: u64) -> Self {
        Self { used: AtomicU64::new(0), max_bytes }
    }

    /// Takes room for bytes that are about to be written.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, bytes: u64, what: &str) -> Result<(), Error> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.max_bytes {
            return Err(self.too_large(what.to_owned()));
        }
        Ok(())
    }

    /// Gives back room of bytes that were removed.
    pub fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Refuses before the first byte what is known to be too large.
    ///
    /// # Errors
    /// When so many bytes are more than all the room.
    pub fn check(&self, bytes: u64, what: &str) -> Result<(), Error> {
        if bytes > self.max_bytes {
            return Err(self.too_large(format!("{what}, of {bytes} bytes,")));
        }
        Ok(())
    }

    fn too_large(&self, what: String) -> Error {
        Error::TooLarge { what, max_bytes: self.max_bytes }
    }

    /// Says in the log how far it is, for ever.
    pub async fn report(&self, total: Option<u64>) -> Infallible {
        let mut before = self.used.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(REPORT_EVERY).await;
            let now = self.used.load(Ordering::Relaxed);
            let bytes_per_second = now.saturating_sub(before) / REPORT_EVERY.as_secs();
            tracing::info!(bytes = now, of = total, bytes_per_second, "fetching");
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_and_given_back() {
        let budget = Budget::new(10);
        budget.take(8, "x").unwrap();
        assert!(matches!(budget.take(3, "x"), Err(Error::TooLarge { max_bytes: 10, .. })));
        budget.give(11);
        budget.take(10, "x").unwrap();
        assert!(budget.check(10, "x").is_ok() && budget.check(11, "x").is_err());
    }
}
