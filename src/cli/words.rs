//! Numbers, ages and tables as kubectl's users know them.

use std::fmt::Write as _;

use jiff::Timestamp;

/// Columns aligned to the left, three blanks apart.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}   ").ok();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A rate, with as many digits as a measurement over some seconds is good for.
pub(super) fn rate(per_second: f64) -> String {
    format!("{}/s", number(per_second))
}

/// Three digits, or all before the point.
pub(super) fn number(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A short time.
pub(super) fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{} ms", number(seconds * 1e3)) } else { format!("{} s", number(seconds)) }
}

/// What is not known is a dash.
pub(super) fn or_dash<T>(value: Option<T>, words: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), words)
}

/// How long ago, as kubectl writes ages.
pub(super) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |high: i64, unit: &str, low: i64, lower: &str| {
        if low == 0 { format!("{high}{unit}") } else { format!("{high}{unit}{low}{lower}") }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// 1st, 2nd, 3rd, 4th ...
pub(super) fn ordinal(number: u32) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases = [(0.0, "0"), (0.126, "0.13"), (4.5, "4.5"), (12.34, "12.3"), (99.96, "100"), (412.4, "412")];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
        assert_eq!([0.0123, 0.5, 1.25, 300.0].map(time), ["12.3 ms", "500 ms", "1.25 s", "300 s"]);
    }

    #[test]
    fn ages_are_as_kubectls() {
        let start = Timestamp::UNIX_EPOCH;
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (30_000, "8h"),
            (180_000, "2d2h"),
            (700_000, "8d"),
        ] {
            assert_eq!(age(start, Timestamp::from_second(seconds).unwrap()), expected, "{seconds} s");
        }
    }

    #[test]
    fn ordinals_are_as_they_are_said() {
        assert_eq!(
            [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal),
            ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]
        );
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = [vec!["NAME".to_owned(), "A".to_owned()], vec!["a".to_owned(), String::new()]];
        assert_eq!(table(&rows), "NAME   A\na\n");
    }
}
