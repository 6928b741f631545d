//! The runs of the study as one picture: for each contender the replicas, and below them what its users waited.

use plotters::prelude::*;

use crate::Outcome;
use crate::study::Run;

const WIDTH: u32 = 960;
const ROW: u32 = 165;
const COLOURS: [RGBColor; 4] =
    [RGBColor(200, 80, 0), RGBColor(0, 90, 200), RGBColor(170, 0, 90), RGBColor(30, 140, 40)];
/// Latencies are drawn as the worst of this many seconds.
const BIN: f64 = 2.0;

/// Draws the runs, one below the other, over the same time.
///
/// # Errors
/// There is nothing to draw.
pub fn draw(runs: &[Run]) -> Outcome<String> {
    let end = runs.iter().filter_map(|run| run.timeline.points.last()).map(|point| point.at).fold(1.0, f64::max);
    let most = f64::from(runs.iter().map(|run| run.timeline.most()).max().ok_or("there is no run to draw")?) + 0.6;
    let slowest = runs.iter().flat_map(|run| &run.requests).map(|request| request.latency).fold(1.0, f64::max) * 1.1;
    let rows = u32::try_from(runs.len())? * 2;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, ROW * rows)).into_drawing_area();
        area.fill(&WHITE)?;
        let areas = area.split_evenly((runs.len() * 2, 1));
        for ((run, pair), colour) in runs.iter().zip(areas.chunks(2)).zip(COLOURS.iter().cycle()) {
            let [replicas, latency] = pair else { continue };
            let caption = format!("{}: replicas ordered (thin) and answering (thick); the load is grey", run.name);
            let mut chart = ChartBuilder::on(replicas)
                .caption(caption, ("sans-serif", 14))
                .margin(6)
                .x_label_area_size(20)
                .y_label_area_size(48)
                .build_cartesian_2d(0.0..end, 0.0..most)?;
            chart.draw_series([Rectangle::new([(0.0, 0.0), (run.load_seconds, most)], BLACK.mix(0.07).filled())])?;
            chart.configure_mesh().disable_x_mesh().y_labels(4).draw()?;
            let points = &run.timeline.points;
            let ordered = points.iter().map(|point| (point.at, f64::from(point.ordered)));
            chart.draw_series(LineSeries::new(steps(ordered), colour.stroke_width(1)))?;
            let ready = points.iter().map(|point| (point.at, f64::from(point.ready)));
            chart.draw_series(LineSeries::new(steps(ready), colour.stroke_width(3)))?;
            let mut chart = ChartBuilder::on(latency)
                .caption(format!("{}: the longest that a request took, s", run.name), ("sans-serif", 14))
                .margin(6)
                .x_label_area_size(20)
                .y_label_area_size(48)
                .build_cartesian_2d(0.0..end, 0.0..slowest)?;
            chart.configure_mesh().disable_x_mesh().y_labels(4).draw()?;
            chart.draw_series(LineSeries::new(steps(worst(run).into_iter()), colour.stroke_width(2)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The longest latency of the requests sent in each bin.
fn worst(run: &Run) -> Vec<(f64, f64)> {
    let mut bins: Vec<(f64, f64)> = Vec::new();
    for request in &run.requests {
        let bin = (request.sent / BIN).floor() * BIN;
        match bins.last_mut() {
            Some(last) if (last.0 - bin).abs() < BIN / 2.0 => last.1 = last.1.max(request.latency),
            _ => bins.push((bin, request.latency)),
        }
    }
    bins
}

/// A value holds until the next one; what stays the same is left out, so that the picture is small.
fn steps(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    let mut last = None;
    for (at, value) in points {
        match line.last().copied() {
            Some((_, before)) if (before - value).abs() < f64::EPSILON => {}
            Some((_, before)) => line.extend([(at, before), (at, value)]),
            None => line.push((at, value)),
        }
        last = Some((at, value));
    }
    line.extend(last);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Request;
    use crate::timeline::{Point, Timeline};

    #[test]
    fn a_run_becomes_two_charts() {
        let point = |at, ordered| Point { at, ordered, ready: ordered, cpu_percent: None };
        let request = |sent, latency| Request { sent, latency, error: None };
        let run = Run {
            name: "Flotilla".to_owned(),
            timeline: Timeline { points: vec![point(0.0, 2), point(1.0, 2), point(2.0, 6), point(30.0, 2)] },
            requests: vec![request(0.1, 2.0), request(0.3, 5.0), request(4.0, 1.0)],
            events: vec![],
            load_seconds: 5.0,
            least: 2,
        };
        assert_eq!(worst(&run), [(0.0, 5.0), (4.0, 1.0)]);
        let svg = draw(&[run]).unwrap();
        assert_eq!(svg.matches("Flotilla: ").count(), 2, "{svg}");
        assert!(draw(&[]).is_err());
    }

    #[test]
    fn a_value_holds_until_the_next() {
        let line = steps([(0.0, 1.0), (1.0, 1.0), (2.0, 3.0), (4.0, 3.0)].into_iter());
        assert_eq!(line, [(0.0, 1.0), (2.0, 1.0), (2.0, 3.0), (4.0, 3.0)]);
    }
}
