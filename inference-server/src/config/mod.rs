//! A model's configuration in Triton's form: `config.pbtxt` in the model's folder, or JSON from a client that loads a model.
//!
//! - [`text`]: text and JSON to the message, and the message to the JSON that clients read.
//! - [`wish`]: what of it this server does, what it leaves out and says so, and what it refuses.
//! - [`fit`]: whether it agrees with the model's graph.
//! - [`sample`]: the requests that run before the model is ready.
//! - [`complete`]: the configuration that clients are shown.

pub mod complete;
pub mod fit;
pub mod sample;
pub mod text;
pub mod wish;

pub use crate::wire::inference::ModelConfig;

/// Why a configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("{0}")]
    Malformed(String),
    /// It asks for what this server does not do, and doing something else would give wrong answers.
    #[error("{field} is not supported: {problem}")]
    Unsupported {
        /// The field, from the top.
        field: String,
        /// Why not.
        problem: &'static str,
    },
    /// A value that can't work.
    #[error("{field} {problem}")]
    Invalid {
        /// The field, from the top.
        field: String,
        /// What it should be.
        problem: String,
    },
}

impl ConfigError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}
