//! A page of text becomes a [`Snapshot`], or a typed error; never a zero that was not on the page.
//!
//! Pages come from servers that run a user's image, so they are not trusted: their size, lines and series are capped,
//! lines of families that nobody needs are not read at all, and a page with one bad line among the needed ones is refused
//! as a whole, since half of its counters would look like a drop in load.

mod error;
mod family;
mod line;
mod page;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};

use super::snapshot::Snapshot;
pub use error::ParseError;
use family::Family;
use line::Sample;
use page::Page;

/// Longest line.
pub const LINE_LIMIT: usize = 4 << 10;
/// Most series on a page, needed or not.
pub const SERIES_LIMIT: usize = 10_000;

/// A sample of a needed family.
#[derive(Debug, Clone, Copy)]
struct Needed<'a> {
    family: Family,
    sample: Sample<'a>,
}

/// Reads a page of the server that serves `model`.
///
/// # Errors
/// Says what is wrong with the page; nothing of it is used then.
pub fn parse(page: &[u8], model: &str) -> Result<Snapshot, ParseError> {
    let page = std::str::from_utf8(page).map_err(|_| ParseError::NotText)?;
    let lines = needed_lines(page)?;
    if lines.samples.is_empty() && lines.malformed == 0 {
        return Err(ParseError::NotMetrics);
    }
    if !page.ends_with('\n') {
        return Err(ParseError::Truncated);
    }
    if lines.malformed > 0 {
        return Err(ParseError::Malformed { lines: lines.malformed });
    }
    if lines.samples.iter().all(|needed| needed.family == Family::ProcessStart) {
        return Err(ParseError::NotMetrics);
    }
    check(&lines.samples)?;
    let chosen = chosen_model(&lines.samples, model)?;
    let is_of_another = |sample: &Sample<'_>| {
        chosen.as_ref().is_some_and(|chosen| sample.label("model").is_some_and(|model| model != *chosen))
    };
    let mut page = Page::default();
    for Needed { family, sample } in lines.samples.iter().filter(|needed| !is_of_another(&needed.sample)) {
        page.add(*family, sample)?;
    }
    page.snapshot(lines.typed_histogram)
}

/// The lines that matter.
struct Lines<'a> {
    samples: Vec<Needed<'a>>,
    /// Lines of needed families that can't be read.
    malformed: usize,
    /// Whether the page says of the one histogram that it is one.
    typed_histogram: bool,
}

fn needed_lines(page: &str) -> Result<Lines<'_>, ParseError> {
    // A page of Flotilla's own server has some 60.
    let mut lines = Lines { samples: Vec::with_capacity(64), malformed: 0, typed_histogram: false };
    let mut series = 0;
    for (number, line) in (1..).zip(page.lines()) {
        if line.len() > LINE_LIMIT {
            return Err(ParseError::LineTooLong { line: number, bytes: line.len() });
        }
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if words.next() == Some("TYPE")
                && let Some(family) = words.next().and_then(Family::typed)
            {
                let (name, expected, found) = (family.name(), family.kind(), words.next().unwrap_or_default());
                if found != expected {
                    return Err(ParseError::WrongType { name, expected, found: found.chars().take(32).collect() });
                }
                lines.typed_histogram |= family == Family::Queue;
            }
        } else if !line.is_empty() {
            series += 1;
            if series > SERIES_LIMIT {
                return Err(ParseError::TooManySeries);
            }
            if let Some(family) = Family::of(line::name(line)) {
                match Sample::read(line).filter(|sample| family.has_its_labels(sample)) {
                    Some(sample) => lines.samples.push(Needed { family, sample }),
                    None => lines.malformed += 1,
                }
            }
        }
    }
    Ok(lines)
}

/// Whose samples count, besides those of no model; none where the page names no model. Where it tells of one model only, that
/// one it is: a service that is being renamed has servers of both names.
fn chosen_model<'a>(samples: &[Needed<'a>], wanted: &str) -> Result<Option<Cow<'a, str>>, ParseError> {
    let of_count = samples.iter().filter(|needed| needed.family == Family::Count);
    let mut found: BTreeSet<_> = of_count.filter_map(|needed| needed.sample.label("model")).collect();
    if found.len() <= 1 {
        return Ok(found.pop_first());
    }
    let chosen = found.iter().find(|name| *name == wanted).cloned();
    chosen.map(Some).ok_or_else(|| ParseError::OtherModels {
        wanted: wanted.to_owned(),
        found: found.iter().take(3).map(|name| name.chars().take(63).collect()).collect::<Vec<String>>().join(", "),
    })
}

/// Every value finite and not negative, every series once, every histogram rising.
fn check(samples: &[Needed<'_>]) -> Result<(), ParseError> {
    // Keyed at random, so that no page can be made whose series all fall together.
    let hasher = RandomState::new();
    let mut seen = HashMap::with_capacity(samples.len());
    let mut histograms = HashMap::new();
    for (index, Needed { family, sample }) in samples.iter().enumerate() {
        let bad = |value: String| ParseError::BadValue { name: family.name().to_owned(), value };
        let duplicate = || ParseError::Duplicate { name: family.name().to_owned() };
        if !sample.value.is_finite() || sample.value < 0.0 {
            return Err(bad(sample.value.to_string()));
        }
        // A sum, since the order in which labels stand says nothing.
        let of_labels = |keep: fn(&str) -> bool| {
            let kept = sample.labels().filter(|(name, _)| keep(name));
            kept.fold(0_u64, |sum, label| sum.wrapping_add(hasher.hash_one(label)))
        };
        let same = seen.insert((*family, of_labels(|_| true)), index).and_then(|earlier| samples.get(earlier));
        if same.is_some_and(|earlier| sorted(&earlier.sample) == sorted(sample)) {
            return Err(duplicate());
        }
        if *family == Family::QueueBucket {
            let bound = family::bound(sample).unwrap_or(f64::NAN);
            match histograms.insert(of_labels(|name| name != "le"), (bound, sample.value)) {
                Some((lower, _)) if lower.total_cmp(&bound).is_ge() => return Err(duplicate()),
                Some((_, count)) if count > sample.value => return Err(bad("a histogram that falls".to_owned())),
                _ => {}
            }
        }
    }
    Ok(())
}

fn sorted<'a>(sample: &Sample<'a>) -> Vec<(&'a str, &'a str)> {
    let mut labels: Vec<_> = sample.labels().collect();
    labels.sort_unstable();
    labels
}
