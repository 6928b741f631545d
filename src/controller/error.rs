//! Why a reconcile stopped: one variant a step, a bounded category for metrics, and when to try again.

use std::time::Duration;

use super::apply::NameConflict;

/// Why a reconcile stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("{action}: {}", told(.source))]
    Api {
        /// What was tried.
        action: String,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
    /// A request took longer than it may.
    #[error("{action}: no answer within {} s", super::context::WRITE_TIMEOUT.as_secs())]
    Timeout {
        /// What was tried.
        action: String,
    },
    /// The lease ends before the write could.
    #[error("{action}: not started, because the lease ends before the request's time limit")]
    Fenced {
        /// What was to be written.
        action: String,
    },
    /// A name is taken.
    #[error(transparent)]
    NameConflict(#[from] NameConflict),
    /// No objects can be built; what the user can mend was told before.
    #[error(transparent)]
    Build(#[from] crate::resources::Error),
    /// An object could not be turned into JSON or back.
    #[error("{kind} could not be serialised: {source}")]
    Serialise {
        /// Its kind.
        kind: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { source, .. } if is_conflict(source) => "conflict",
            Self::Api { .. } => "api",
            Self::Timeout { .. } => "timeout",
            Self::Fenced { .. } => "fenced",
            Self::NameConflict(_) => "name_conflict",
            Self::Build(_) | Self::Serialise { .. } => "build",
        }
    }

    /// Somebody else wrote at the same moment; the next try reads what they wrote.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_conflict(source))
    }

    /// The namespace is being deleted, and everything in it: there is nothing left to do.
    pub fn is_namespace_going(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status)
            if status.code == 403 && status.message.contains("because it is being terminated")))
    }

    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NameConflict(conflict) => conflict.reason(),
            Self::Api { source, .. } if is_invalid(source) => "Rejected",
            Self::Api { .. } | Self::Timeout { .. } => "ApiServerUnavailable",
            Self::Fenced { .. } => "LeaseExpiring",
            Self::Build(_) | Self::Serialise { .. } => "InternalError",
        }
    }

    /// Nothing will change before somebody changes the service or the object in the way.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NameConflict(conflict) => !conflict.is_passing(),
            Self::Api { source, .. } => is_invalid(source),
            _ => false,
        }
    }

    /// How long until the next try, given how many failed before in a row.
    pub fn retry_after(&self, failures: u32) -> Duration {
        let first = match self {
            Self::NameConflict(conflict) if conflict.is_passing() => Duration::from_millis(500),
            Self::Api { source, .. } if is_conflict(source) => Duration::from_millis(100),
            _ => Duration::from_secs(1),
        };
        first.saturating_mul(1 << failures.min(6)).min(Duration::from_secs(30))
    }
}

/// What the API server said, without the rest of its answer.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn is_invalid(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 422 || status.code == 400 || status.code == 403)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_and_end_at_half_a_minute() {
        let error = Error::Timeout { action: "apply Service a/b".into() };
        assert_eq!(error.retry_after(0), Duration::from_secs(1));
        assert!(error.retry_after(3) > error.retry_after(2));
        assert_eq!(error.retry_after(u32::MAX), Duration::from_secs(30));
    }
}
