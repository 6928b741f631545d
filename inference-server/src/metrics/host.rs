//! `nv_cpu_*`: the machine's processors and memory, which is what Triton means by them, and not the container's share.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time over which a utilisation means something; a page asked for sooner shows the last one.
const SHORTEST: Duration = Duration::from_millis(500);

/// Looks at the machine when a page is asked for.
#[derive(Debug)]
pub struct Host {
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    ticks: Option<Ticks>,
    utilization: f64,
}

/// Ticks since the machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    idle: u64,
}

impl Host {
    /// The first utilisation is the one since now.
    pub fn new() -> Self {
        Self { last: Mutex::new(Last { at: Instant::now(), ticks: ticks_now(), utilization: 0.0 }) }
    }

    /// The page's lines; none on a machine without `/proc`.
    pub fn page(&self) -> String {
        let utilization = self
            .utilization()
            .map(|ratio| gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", &format!("{ratio:.6}")));
        let memory =
            fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_memory(&text)).map(|(total, used)| {
                gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", &total.to_string())
                    + &gauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", &used.to_string())
            });
        utilization.unwrap_or_default() + &memory.unwrap_or_default()
    }

    fn utilization(&self) -> Option<f64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.ticks?;
        if last.at.elapsed() >= SHORTEST
            && let Some(now) = ticks_now()
        {
            last.utilization = ratio(before, now);
            last.ticks = Some(now);
            last.at = Instant::now();
        }
        Some(last.utilization)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

fn gauge(name: &str, help: &str, value: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
}

fn ticks_now() -> Option<Ticks> {
    fs::read_to_string("/proc/stat").ok().and_then(|text| parse_ticks(&text))
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn parse_ticks(text: &str) -> Option<Ticks> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let values: Vec<u64> = line.split_whitespace().map_while(|value| value.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = *values.first_chunk::<8>()?;
    Some(Ticks { busy: user + nice + system + irq + softirq + steal, idle: idle + iowait })
}

#[expect(clippy::cast_precision_loss, reason = "a machine's ticks stay below 2^53 for centuries")]
fn ratio(before: Ticks, now: Ticks) -> f64 {
    let busy = now.busy.saturating_sub(before.busy) as f64;
    let all = busy + now.idle.saturating_sub(before.idle) as f64;
    if all > 0.0 { busy / all } else { 0.0 }
}

/// All memory, and what of it is not available, in bytes.
fn parse_memory(text: &str) -> Option<(u64, u64)> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = value("MemTotal")?;
    Some((total, total.saturating_sub(value("MemAvailable")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilisation_is_the_busy_share_between_two_looks() {
        let before = parse_ticks("cpu  100 10 20 800 5 1 2 3 0 0\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!(before, Ticks { busy: 136, idle: 805 });
        let now = parse_ticks("cpu  130 10 20 870 5 1 2 3 0 0\n").unwrap();
        assert!((ratio(before, now) - 0.3).abs() < 1e-12);
        assert!(ratio(now, now) < f64::EPSILON);
        assert_eq!(parse_ticks("intr 1 2 3"), None);
        assert_eq!(parse_ticks("cpu 1 2"), None);
    }

    #[test]
    fn used_memory_is_what_is_not_available() {
        let text = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n";
        assert_eq!(parse_memory(text), Some((1_024_000, 614_400)));
        assert_eq!(parse_memory("MemTotal: 1 kB"), None);
    }

    #[test]
    fn this_machine_has_a_page() {
        let page = Host::new().page();
        for name in ["nv_cpu_utilization ", "nv_cpu_memory_total_bytes ", "nv_cpu_memory_used_bytes "] {
            assert!(page.lines().any(|line| line.starts_with(name)), "{name} is not in\n{page}");
        }
    }
}
