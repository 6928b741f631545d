//! The flags that say what the fleet is fed with.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::simulate::{Load, Shape, Trace, TraceError};

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be opened.
    #[error("{path}: can't be read: {source}; give the path of a CSV file with --trace")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no trace.
    #[error("{path}: {source}")]
    Trace {
        /// Which.
        path: PathBuf,
        /// Why.
        source: TraceError,
    },
    /// A number is out of bounds.
    #[error("--{flag} is {value}; give a number above 0")]
    NotPositive {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        value: f64,
    },
    /// Nothing is left.
    #[error("{0}: no request is left of the load; look at --from-seconds, --duration-seconds and --rate-scale")]
    Empty(String),
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArguments {
    /// A CSV file of arrivals: a column `TIMESTAMP`, or counts as `timestamp,value` or `second,requests`
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    trace: Option<PathBuf>,
    /// Multiplies the trace's rate: it is smoothed over 30 s and arrivals are drawn from it anew
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    rate_scale: f64,
    /// A load that nobody recorded [default: step, without --trace]
    #[arg(long, value_enum, value_name = "SHAPE")]
    generate: Option<Shape>,
    /// Requests per second at the peak of a generated load
    #[arg(long, default_value_t = 400.0, value_name = "RATE")]
    peak_rate: f64,
    /// Leaves out this much of the load's beginning
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    from_seconds: f64,
    /// How long a generated load lasts, or how much of a trace is played [default: 3600, or all of the trace]
    #[arg(long, value_name = "SECONDS")]
    duration_seconds: Option<f64>,
}

impl ValueEnum for Shape {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl LoadArguments {
    /// The load and its name.
    pub(super) fn load(&self) -> Result<(String, Load), LoadError> {
        let positive = |flag, value: f64| {
            if value.is_finite() && value > 0.0 { Ok(()) } else { Err(LoadError::NotPositive { flag, value }) }
        };
        positive("rate-scale", self.rate_scale)?;
        positive("peak-rate", self.peak_rate)?;
        positive("duration-seconds", self.duration_seconds.unwrap_or(1.0))?;
        positive("from-seconds", self.from_seconds + 1e-9)?;
        let duration = self.duration_seconds.unwrap_or(f64::MAX);
        let (name, load) = if let Some(path) = &self.trace {
            (path.display().to_string(), read(path)?.load(self.rate_scale).part(self.from_seconds, duration))
        } else {
            let shape = self.generate.unwrap_or(Shape::Step);
            let duration = self.duration_seconds.unwrap_or(3600.0).min(1e6);
            (shape.as_str().to_owned(), shape.load(self.peak_rate, duration).part(self.from_seconds, duration))
        };
        let is_empty = match &load {
            Load::Recorded(moments) => moments.is_empty(),
            Load::Rate(rate) => rate.per_second.iter().all(|rate| *rate <= 0.0),
            Load::Bursty(_) => false,
        };
        if is_empty { Err(LoadError::Empty(name)) } else { Ok((name, load)) }
    }
}

/// Reads a trace from a file.
pub(super) fn read(path: &Path) -> Result<Trace, LoadError> {
    let file = std::fs::File::open(path).map_err(|source| LoadError::Open { path: path.to_owned(), source })?;
    Trace::read(std::io::BufReader::new(file)).map_err(|source| LoadError::Trace { path: path.to_owned(), source })
}
