//! The sweep's results as Markdown and as CSV.

use std::fmt::Write as _;

use super::Tried;
use super::cases::Case;
use crate::simulate::{Estimate, PolicyKind, RunReport};

/// The columns of the CSV file.
pub(super) const CSV_HEADER: &str = "load,startup_seconds,policy,target,slo_share,slo_share_half_interval,gpu_hours,wait_p50_s,\
    wait_p95_s,wait_p99_s,actions,reversals,under,over\n";

/// The table of one case, and where a peer is better.
pub(super) fn case(markdown: &mut String, case: &Case, tried: &[Tried], losses: &mut Vec<String>) {
    let requests = Estimate::over(&tried[0].runs, |run| run.requests).mean;
    write!(
        markdown,
        "\n### {}, start-up {:.0} s\n\n{requests:.0} requests; a replica takes {:.2}/s at most; waits of at most {:.0} ms.\n\n\
         | policy | target | in SLO % | GPU-hours | p50, p95, p99 ms | actions | reversals |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        case.name,
        case.startup,
        case.scenario.server.full_speed(),
        case.scenario.slo_wait.as_secs_f64() * 1e3,
    )
    .ok();
    let ours = &tried[0];
    for policy in PolicyKind::ALL {
        let its = || tried.iter().filter(move |tried| tried.policy == policy);
        if !policy.is_peer() {
            its().for_each(|tried| row(markdown, tried, ""));
            continue;
        }
        let best = its()
            .filter(|tried| tried.costs_as_much_as(ours))
            .max_by(|one, other| one.share().mean.total_cmp(&other.share().mean));
        match best {
            Some(best) => row(markdown, best, "at equal GPU-hours"),
            None => {
                writeln!(markdown, "| {} | no target has GPU-hours within 2 % | | | | | |", policy.as_str()).ok();
            }
        }
        let default = policy.default_target(&case.scenario);
        its()
            .filter(|tried| (tried.target - default).abs() < 1e-9)
            .take(1)
            .for_each(|tried| row(markdown, tried, "default"));
        if let Some(better) =
            its().filter(|tried| tried.beats(ours)).max_by(|one, other| one.share().mean.total_cmp(&other.share().mean))
        {
            let by = better.better_than(ours);
            losses.push(format!(
                "- {}, start-up {:.0} s: {} with a target of {:.3} {} has {:.2} ± {:.2} points more, at {:.3} GPU-hours instead of {:.3}\n",
                case.name, case.startup, policy.as_str(), better.target, policy.target_unit(), by.mean, by.half_width, better.hours(), ours.hours()
            ));
        }
    }
}

fn row(markdown: &mut String, tried: &Tried, note: &str) {
    let mean = |figure: fn(&RunReport) -> f64| Estimate::over(&tried.runs, figure).mean;
    let target = if tried.policy.is_peer() { format!("{:.3} ({note})", tried.target) } else { String::new() };
    let share = tried.share();
    writeln!(
        markdown,
        "| {} | {target} | {:.2} ± {:.2} | {:.3} | {:.0}, {:.0}, {:.0} | {:.1} | {:.1} |",
        tried.policy.as_str(),
        share.mean,
        share.half_width,
        tried.hours(),
        mean(|run| run.wait_p50) * 1e3,
        mean(|run| run.wait_p95) * 1e3,
        mean(|run| run.wait_p99) * 1e3,
        mean(|run| run.actions),
        mean(|run| run.reversals),
    )
    .ok();
}

/// One setting as a row of the CSV file.
pub(super) fn csv_row(csv: &mut String, case: &Case, tried: &Tried) {
    let mean = |figure: fn(&RunReport) -> f64| Estimate::over(&tried.runs, figure).mean;
    let share = tried.share();
    writeln!(
        csv,
        "{},{},{},{:.4},{:.5},{:.5},{:.4},{:.4},{:.4},{:.4},{:.1},{:.1},{:.0},{:.0}",
        case.name,
        case.startup,
        tried.policy.as_str(),
        tried.target,
        share.mean / 100.0,
        share.half_width / 100.0,
        tried.hours(),
        mean(|run| run.wait_p50),
        mean(|run| run.wait_p95),
        mean(|run| run.wait_p99),
        mean(|run| run.actions),
        mean(|run| run.reversals),
        mean(|run| run.under_provision),
        mean(|run| run.over_provision),
    )
    .ok();
}
