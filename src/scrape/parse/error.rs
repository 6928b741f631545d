//! Why a page of metrics was refused, for people and for counting.

use super::{LINE_LIMIT, SERIES_LIMIT};

/// Why a page was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not text.
    #[error("the page is not UTF-8 text; is another server listening on the metrics port?")]
    NotText,
    /// Text, but not of metrics.
    #[error("the page has none of the expected metrics; is another server listening on the metrics port?")]
    NotMetrics,
    /// The page stops in the middle of a line.
    #[error("the page ends in the middle of a line")]
    Truncated,
    /// A line is too long.
    #[error("line {line} has {bytes} bytes, the limit is {LINE_LIMIT}")]
    LineTooLong {
        /// Which line.
        line: usize,
        /// How long it is.
        bytes: usize,
    },
    /// There are too many series.
    #[error("the page has more than {SERIES_LIMIT} series; remove labels with many values from the server's metrics")]
    TooManySeries,
    /// The page tells of several models, and none is the service's.
    #[error("the page has no model {wanted:?}, but {found}; spec.model.name has to be the name that the server knows")]
    OtherModels {
        /// The service's model.
        wanted: String,
        /// Some of the models that it does tell of.
        found: String,
    },
    /// A needed series is not there.
    #[error(
        "the page has no {name}; servers have to export Triton's counters of time and its gauge of pending requests"
    )]
    Missing {
        /// The series' name.
        name: &'static str,
    },
    /// A family has another type than its name says.
    #[error("{name} is of type {found:?}, expected {expected:?}")]
    WrongType {
        /// The family.
        name: &'static str,
        /// The type that it must have.
        expected: &'static str,
        /// The type that it has.
        found: String,
    },
    /// Lines of needed families can't be read.
    #[error("{lines} lines of needed metrics can't be read")]
    Malformed {
        /// How many.
        lines: usize,
    },
    /// A series is there twice.
    #[error("{name} has the same labels twice")]
    Duplicate {
        /// The series' name.
        name: String,
    },
    /// A value is none that the series can have.
    #[error("{name} is {value}, which is no count, time or size")]
    BadValue {
        /// The series' name.
        name: String,
        /// Its value.
        value: String,
    },
}

impl ParseError {
    /// A bounded name for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::NotText | Self::NotMetrics => "not_metrics",
            Self::Truncated => "truncated",
            Self::LineTooLong { .. } | Self::TooManySeries => "too_large",
            Self::Missing { .. } | Self::OtherModels { .. } => "missing_series",
            Self::WrongType { .. } | Self::Malformed { .. } | Self::Duplicate { .. } | Self::BadValue { .. } => {
                "malformed"
            }
        }
    }
}
