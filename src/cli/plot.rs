//! Plots as SVG: what each policy pays for what it reaches, and how its replicas follow the load.

use std::error::Error;

use plotters::prelude::*;

use super::output::Summary;

const SIZE: (u32, u32) = (960, 540);
const ROW_HEIGHT: u32 = 150;
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 90, 200),
    RGBColor(200, 80, 0),
    RGBColor(170, 0, 90),
    RGBColor(120, 120, 0),
    RGBColor(0, 130, 130),
    RGBColor(110, 60, 170),
    RGBColor(30, 140, 40),
    RGBColor(90, 90, 90),
    RGBColor(150, 150, 150),
];

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// GPU-hours against the share within the objective: up and left is better.
pub(super) fn pareto(load: &str, summaries: &[Summary]) -> Result<String, Box<dyn Error>> {
    let points: Vec<(f64, f64, f64, f64)> = summaries
        .iter()
        .map(|summary| {
            let (hours, share) = (summary.estimate(|run| run.gpu_hours), summary.estimate(|run| run.slo_share * 100.0));
            (hours.mean, hours.half_width, share.mean, share.half_width)
        })
        .collect();
    let most = points.iter().map(|point| point.0 + point.1).fold(1e-6, f64::max) * 1.08;
    let least = points.iter().map(|point| point.2 - point.3).fold(100.0, f64::min);
    let floor = (least - 0.1 * (100.5 - least)).max(0.0);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{load}: requests within the objective, and GPU-hours"), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..most, floor..100.0 + 0.02 * (100.5 - floor))?;
        chart.configure_mesh().x_desc("GPU-hours").y_desc("within the objective, %").draw()?;
        for (index, (summary, point)) in summaries.iter().zip(&points).enumerate() {
            let (hours, width, share, height) = *point;
            let colour = colour(index);
            chart.draw_series([
                PathElement::new([(hours - width, share), (hours + width, share)], colour),
                PathElement::new([(hours, share - height), (hours, (share + height).min(100.0))], colour),
            ])?;
            chart
                .draw_series([Circle::new((hours, share), 5, colour.filled())])?
                .label(summary.policy.as_str())
                .legend(move |(x, y)| Circle::new((x + 8, y), 5, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

/// The load above, and below it a row for each policy: what was needed, ordered and ready.
pub(super) fn timeline(load: &str, summaries: &[Summary]) -> Result<String, Box<dyn Error>> {
    let rows = u32::try_from(summaries.len()).unwrap_or(u32::MAX).saturating_add(1).min(20);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, ROW_HEIGHT * rows)).into_drawing_area();
        area.fill(&WHITE)?;
        let areas = area.split_evenly((rows as usize, 1));
        let Some(first) = summaries.first().and_then(|summary| summary.runs.first()) else {
            return Err("there is nothing to plot".into());
        };
        let end = first.timeline.last().map_or(1.0, |point| point.at).max(1.0);
        let peak = first.timeline.iter().map(|point| point.rate).fold(1e-9, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(&areas[0])
            .caption(format!("{load}: requests per second"), ("sans-serif", 14))
            .margin(6)
            .x_label_area_size(18)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..peak)?;
        chart.configure_mesh().disable_x_mesh().y_labels(4).draw()?;
        chart.draw_series(LineSeries::new(first.timeline.iter().map(|point| (point.at, point.rate)), BLACK))?;
        for ((index, summary), area) in summaries.iter().enumerate().zip(&areas[1..]) {
            let Some(run) = summary.runs.first() else { continue };
            let most = run.timeline.iter().map(|point| point.need.max(point.ordered)).max().unwrap_or(1);
            let caption = format!("{}: replicas needed (grey), ordered (thin), ready (thick)", summary.policy.as_str());
            let mut chart = ChartBuilder::on(area)
                .caption(caption, ("sans-serif", 14))
                .margin(6)
                .x_label_area_size(18)
                .y_label_area_size(48)
                .build_cartesian_2d(0.0..end, 0.0..f64::from(most) * 1.15)?;
            chart.configure_mesh().disable_x_mesh().y_labels(4).draw()?;
            let line = |value: fn(&crate::simulate::TimelinePoint) -> u32, style: ShapeStyle| {
                LineSeries::new(run.timeline.iter().map(move |point| (point.at, f64::from(value(point)))), style)
            };
            chart.draw_series(line(|point| point.need, BLACK.mix(0.35).stroke_width(1)))?;
            chart.draw_series(line(|point| point.ordered, colour(index).stroke_width(1)))?;
            chart.draw_series(line(|point| point.ready, colour(index).stroke_width(2)))?;
        }
        area.present()?;
    }
    Ok(svg)
}
