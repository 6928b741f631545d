//! Why the server could not start, in the form that whoever started it can read: the termination message.

use std::{fmt, fs, path::Path};

use serde::Serialize;

/// The most bytes of a termination message; Kubernetes keeps 4096 for all containers of a pod together.
const MAX_BYTES: usize = 2048;

/// What kind of failure ended the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reason {
    /// The settings file is missing, malformed or contradicts the model.
    SettingsInvalid,
    /// ONNX Runtime's library can't be loaded.
    LibraryNotFound,
    /// The model's folder holds no model.
    ModelNotFound,
    /// The model's file is there and can't be used.
    ModelLoadFailed,
    /// The execution provider asked for does not work here.
    ProviderUnavailable,
    /// The model loads and does not run, or does not run twice alike.
    WarmUpFailed,
    /// A port is taken.
    PortInUse,
    /// A model's URI, a credential or an endpoint can't be used.
    SourceInvalid,
    /// Nothing is where the model should be.
    SourceNotFound,
    /// The credentials are missing or not enough.
    SourceForbidden,
    /// A server of the model redirects to where it may not.
    RedirectRefused,
    /// The model can't be fetched, or not in time.
    SourceUnreachable,
    /// The model is larger than what may be stored.
    SourceTooLarge,
    /// The model is another one than the one asked for.
    ChecksumMismatch,
    /// An archive or a list of files is not unpacked or followed.
    ArchiveInvalid,
    /// The model can't be stored.
    DestinationFailed,
    /// Anything else: a defect of the server or of the machine.
    Internal,
}

/// A failed start: what happened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub reason: Reason,
    /// What happened, where.
    pub message: String,
    /// What whoever runs the server can do.
    pub fix: String,
}

#[derive(Serialize)]
struct TerminationMessage<'a> {
    version: u32,
    reason: Reason,
    message: &'a str,
    fix: &'a str,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(reason: Reason, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason, message: message.into(), fix: fix.into() }
    }

    /// A defect of the server or of the machine.
    pub fn internal(message: &str) -> Self {
        Self::new(Reason::Internal, message, "report this with the server's log")
    }

    /// The termination message, shortened to fit.
    pub fn to_json(&self) -> String {
        let mut message_bytes = self.message.len();
        let mut fix_bytes = self.fix.len();
        loop {
            let text = serde_json::to_string(&TerminationMessage {
                version: 1,
                reason: self.reason,
                message: &self.message[..floor_char_boundary(&self.message, message_bytes)],
                fix: &self.fix[..floor_char_boundary(&self.fix, fix_bytes)],
            })
            .unwrap_or_default();
            // Escapes can make the text longer than its parts, so it is shortened until it fits, the longer part first.
            if text.len() <= MAX_BYTES {
                return text;
            }
            let longest = if message_bytes >= fix_bytes { &mut message_bytes } else { &mut fix_bytes };
            *longest = longest.saturating_sub(64);
        }
    }

    /// Writes the termination message; a file that can't be written is logged, for the log is then all there is.
    pub fn write_to(&self, path: &Path) {
        if let Err(error) = fs::write(path, self.to_json()) {
            tracing::debug!(path = %path.display(), %error, "the termination message can't be written");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} ({})", self.reason, self.message, self.fix)
    }
}

impl std::error::Error for Failure {}

fn floor_char_boundary(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_documented_json() {
        let failure = Failure::new(Reason::ModelLoadFailed, "no graph", "export it again");
        assert_eq!(
            failure.to_json(),
            r#"{"version":1,"reason":"ModelLoadFailed","message":"no graph","fix":"export it again"}"#
        );
    }

    #[test]
    fn a_long_message_is_cut_on_a_character_and_stays_json() {
        for text in ["é".repeat(5000), "\n".repeat(5000), "\"".repeat(5000)] {
            let failure = Failure::new(Reason::Internal, text.clone(), text);
            let json = failure.to_json();
            assert!(json.len() <= MAX_BYTES);
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
    }
}
