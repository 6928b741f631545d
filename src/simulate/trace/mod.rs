//! Reading a trace: a CSV file of arrival timestamps, or of counts by time.

use std::io::Read;

use jiff::civil::DateTime;

use super::arrivals::{Load, MOST_REQUESTS, Rate, SMOOTHING_SECONDS, count, index};

/// The longest trace that is read, in seconds: a year, by when a run of a million requests has long ended.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;
/// Most rows that are read.
const MOST_ROWS: usize = 10_000_000;
/// Width of a bin of counts, where they are further apart: between two counts the rate changes evenly.
const FINEST_BIN_SECONDS: f64 = 10.0;

/// A trace as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub enum Trace {
    /// Moments in seconds from the first, in order.
    Moments(Vec<f64>),
    /// A rate over time, from counts.
    Counts(Rate),
}

/// Why a file is no trace; the caller knows its name.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is no CSV file.
    #[error("line {line}: this is no CSV: {source}")]
    Csv {
        /// Where.
        line: u64,
        /// What the reader says.
        source: csv::Error,
    },
    /// No column is known.
    #[error(
        "line 1: the columns are `{found}`; a trace has a column `TIMESTAMP`, or the columns `timestamp,value` or \
         `second,requests`"
    )]
    Columns {
        /// The columns that it has.
        found: String,
    },
    /// A row has no usable time.
    #[error("line {line}: `{found}` is no time; write seconds, or a date and time such as 2026-01-31 08:00:00")]
    Time {
        /// Where.
        line: u64,
        /// What is there.
        found: String,
    },
    /// A row has no usable count.
    #[error("line {line}: `{found}` is no count; write a number that is not negative")]
    Count {
        /// Where.
        line: u64,
        /// What is there.
        found: String,
    },
    /// Counts are not in order.
    #[error("line {line}: this time is not after the one before; sort the rows by time and give each time once")]
    Order {
        /// Where.
        line: u64,
    },
    /// There is too little in it.
    #[error("the file has {rows} row(s) with a time; a trace needs two or more at different times")]
    TooShort {
        /// How many there are.
        rows: usize,
    },
    /// There is too much in it.
    #[error("line {line}: a trace holds at most {MOST_ROWS} rows and a year; cut it")]
    TooLong {
        /// Where.
        line: u64,
    },
}

impl Trace {
    /// Reads a CSV file.
    ///
    /// # Errors
    /// Says which line is wrong, how, and what to write instead.
    pub fn read(file: impl Read) -> Result<Self, TraceError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(file);
        let headers = reader.headers().map_err(|source| TraceError::Csv { line: 1, source })?.clone();
        let column = |name: &str| headers.iter().position(|header| header.trim_start_matches('\u{feff}') == name);
        let any = |name: &str| {
            headers.iter().position(|header| header.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name))
        };
        let counts = [("timestamp", "value"), ("second", "requests")]
            .into_iter()
            .find_map(|(time, value)| Some((any(time)?, any(value)?)));
        if let Some((time, value)) = counts {
            let rows = rows(&mut reader, |record, line| {
                Ok((moment(record, time, line)?, number(record, value, line)?, line))
            })?;
            return from_counts(&rows).map(Self::Counts);
        }
        let Some(time) = column("TIMESTAMP").or_else(|| any("timestamp")) else {
            return Err(TraceError::Columns { found: headers.iter().collect::<Vec<_>>().join(",") });
        };
        let mut moments = rows(&mut reader, |record, line| moment(record, time, line))?;
        // Recorders write a request when it ends or from several threads: slightly out of order is usual.
        moments.sort_by(f64::total_cmp);
        let (first, last) = (moments.first().copied().unwrap_or_default(), moments.last().copied().unwrap_or_default());
        if last <= first {
            return Err(TraceError::TooShort { rows: moments.len() });
        }
        if last - first > LONGEST_SECONDS {
            return Err(TraceError::TooLong { line: 1 + moments.len() as u64 });
        }
        for moment in &mut moments {
            *moment -= first;
        }
        Ok(Self::Moments(moments))
    }

    /// The load of the trace at another scale: its rate, smoothed and multiplied, from which arrivals are drawn anew.
    /// Recorded moments at scale 1 stay what they are.
    pub fn load(self, scale: f64) -> Load {
        match self {
            Self::Moments(moments) if (scale - 1.0).abs() < 1e-12 => Load::Recorded(moments),
            Self::Moments(moments) => Load::Rate(Rate::of(&moments, SMOOTHING_SECONDS).scaled(scale)),
            Self::Counts(rate) => Load::Rate(rate.scaled(scale)),
        }
    }
}

impl Load {
    /// The part of the load between two moments.
    #[must_use]
    pub fn part(self, from: f64, duration: f64) -> Self {
        match self {
            Self::Recorded(moments) => Self::Recorded(
                moments
                    .into_iter()
                    .filter(|at| *at >= from && *at < from + duration)
                    .take(MOST_REQUESTS)
                    .map(|at| at - from)
                    .collect(),
            ),
            Self::Rate(rate) => {
                let skip = index(from / rate.bin_seconds);
                let take = index((duration / rate.bin_seconds).ceil());
                Self::Rate(Rate { per_second: rate.per_second.into_iter().skip(skip).take(take).collect(), ..rate })
            }
            Self::Bursty(bursty) => Self::Bursty(super::arrivals::Bursty { duration_seconds: duration, ..bursty }),
        }
    }
}

fn rows<T>(
    reader: &mut csv::Reader<impl Read>,
    row: impl Fn(&csv::StringRecord, u64) -> Result<T, TraceError>,
) -> Result<Vec<T>, TraceError> {
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(rows),
            Ok(true) => {}
            Err(source) => return Err(TraceError::Csv { line, source }),
        }
        let line = record.position().map_or(line, csv::Position::line);
        if rows.len() == MOST_ROWS {
            return Err(TraceError::TooLong { line });
        }
        rows.push(row(&record, line)?);
    }
}

/// Seconds of a row: a number, or a date and time, with a zone or without.
fn moment(record: &csv::StringRecord, column: usize, line: u64) -> Result<f64, TraceError> {
    let text = record.get(column).unwrap_or_default();
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    let civil = || text.parse::<DateTime>().ok().and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
    let zoned = || text.replacen(' ', "T", 1).parse::<jiff::Timestamp>().ok();
    number
        .or_else(|| zoned().map(|timestamp| timestamp.as_duration().as_secs_f64()))
        .or_else(|| civil().map(|time| time.timestamp().as_duration().as_secs_f64()))
        .ok_or_else(|| TraceError::Time { line, found: shortened(text) })
}

fn number(record: &csv::StringRecord, column: usize, line: u64) -> Result<f64, TraceError> {
    let text = record.get(column).unwrap_or_default();
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| TraceError::Count { line, found: shortened(text) })
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Counts of intervals become a rate that goes evenly from one to the next.
fn from_counts(rows: &[(f64, f64, u64)]) -> Result<Rate, TraceError> {
    let [(first, ..), .., (last, _, line)] = rows else {
        return Err(TraceError::TooShort { rows: rows.len() });
    };
    if let Some(pair) = rows.windows(2).find(|pair| pair[1].0 <= pair[0].0) {
        return Err(TraceError::Order { line: pair[1].2 });
    }
    if last - first > LONGEST_SECONDS {
        return Err(TraceError::TooLong { line: *line });
    }
    let mut gaps: Vec<f64> = rows.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    gaps.sort_by(f64::total_cmp);
    let usual = gaps[gaps.len() / 2];
    let rates: Vec<(f64, f64)> = rows.iter().map(|(at, requests, _)| (at - first, requests / usual)).collect();
    let bin_seconds = usual.min(FINEST_BIN_SECONDS);
    let bins = index((last - first + usual) / bin_seconds).max(1);
    let mut per_second = Vec::with_capacity(bins);
    let mut next = 0;
    for bin in 0..bins {
        let at = (count(bin) + 0.5) * bin_seconds;
        while next + 1 < rates.len() && rates[next + 1].0 + usual / 2.0 <= at {
            next += 1;
        }
        // A count speaks for the middle of its interval.
        let (from, rate) = (rates[next].0 + usual / 2.0, rates[next].1);
        let between = rates.get(next + 1).filter(|_| at > from && bin_seconds < usual);
        per_second.push(between.map_or(rate, |(to, later)| {
            let part = ((at - from) / (to + usual / 2.0 - from)).clamp(0.0, 1.0);
            rate + part * (later - rate)
        }));
    }
    Ok(Rate { bin_seconds, per_second })
}

#[cfg(test)]
mod tests;
