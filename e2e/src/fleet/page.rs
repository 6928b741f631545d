//! The page of a server under steady load, as it is some time after its start: the counters of a real page, moved on.

use std::fmt::Write as _;

/// A page of Flotilla's own server with the timer device, taken at 120 images/s.
const REAL: &str = include_str!("../../../src/scrape/testdata/flotilla-under-load.txt");
/// How long that server had run under load: its 290 images by their rate.
const RUN_SECONDS: f64 = 290.0 / 120.0;
/// The load here, as a part of that one: the device is busy for a quarter of the time.
const LOAD: f64 = 0.25;

/// The real page, cut where its numbers stand.
pub struct Template {
    pieces: Vec<Piece>,
    end: String,
}

struct Piece {
    text: String,
    value: f64,
    /// Counters and histograms move on, gauges stay.
    moves: bool,
    whole: bool,
    /// Seconds of executions move on with their number, an execution at a time: a server's never tell of a part of one.
    executions: Option<f64>,
}

/// The seconds and the number of executions of one size.
const SECONDS: &str = "flotilla_device_batch_seconds_total";
const EXECUTIONS: &str = "flotilla_device_batches_total";

impl Template {
    /// Of the real page.
    pub fn real() -> Self {
        let (mut pieces, mut text, mut moves) = (Vec::new(), String::new(), false);
        let executions = |name: &str| {
            let name = name.replace(SECONDS, EXECUTIONS);
            REAL.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok())
        };
        for line in REAL.split_inclusive('\n') {
            if line.starts_with("# TYPE") {
                moves = !line.trim_end().ends_with(" gauge");
            }
            let sample = line.rsplit_once(' ').filter(|_| !line.starts_with('#'));
            let Some((name, value, number)) =
                sample.and_then(|(name, number)| Some((name, number.trim_end().parse::<f64>().ok()?, number)))
            else {
                text.push_str(line);
                continue;
            };
            text.push_str(name);
            text.push(' ');
            let executions = if name.starts_with(SECONDS) { executions(name) } else { None };
            let whole = !number.contains('.');
            pieces.push(Piece { text: std::mem::take(&mut text), value, moves, whole, executions });
            text.push('\n');
        }
        Self { pieces, end: text }
    }

    /// Writes the page of a server that has run for `seconds`, `speed` times as fast as others.
    pub fn write(&self, page: &mut String, seconds: f64, speed: f64) {
        let factor = seconds * speed * LOAD / RUN_SECONDS;
        for piece in &self.pieces {
            page.push_str(&piece.text);
            let moved = piece.executions.map_or(factor, |number| (number * factor).floor() / number);
            let value = if piece.moves { piece.value * moved } else { piece.value };
            // A count below itself in the next bucket of a histogram stays below it when both are cut.
            let _ = if piece.whole { write!(page, "{}", value.floor()) } else { write!(page, "{value}") };
        }
        page.push_str(&self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_moves_on_and_is_one_that_the_operator_reads() {
        let template = Template::real();
        let page = |seconds| {
            let mut page = String::new();
            template.write(&mut page, seconds, 1.0);
            assert!((8000..11_000).contains(&page.len()), "{} bytes", page.len());
            page
        };
        let images = |page: &str| crate::cluster::metric(page, "nv_inference_count", &[]);
        let (before, after) = (page(100.0), page(102.0));
        assert!((images(&after) - images(&before) - 60.0).abs() <= 1.0, "30 images/s");
        let three = &[r#"batch_size="3""#];
        let mean =
            |page: &str| crate::cluster::metric(page, SECONDS, three) / crate::cluster::metric(page, EXECUTIONS, three);
        assert!(
            (mean(&before) - mean(&after)).abs() < 1e-9 && (mean(&after) - 0.025_561).abs() < 1e-6,
            "{}",
            mean(&after)
        );
        let pending = |page: &str| crate::cluster::metric(page, "flotilla_pending_images", &[]);
        assert!((pending(&after) - pending(&before)).abs() < f64::EPSILON);
        for page in [before, after] {
            let read = flotilla::scrape::parse(page.as_bytes(), "timer");
            assert!(read.is_ok(), "{read:?}");
        }
    }
}
