//! What a process takes, as the kernel accounts for it.

use std::fs;

use crate::Outcome;

/// Processor time of a process so far, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessorTime {
    /// In the program.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
}

impl ProcessorTime {
    /// Both.
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
}

/// Processor time so far: fields 14 and 15 of its stat, in ticks of 10 ms on every Linux that counts.
///
/// # Errors
/// There is no such process.
pub fn processor_time(pid: u32) -> Outcome<ProcessorTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no stat")?;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system] => Ok(ProcessorTime { user: user / 100.0, system: system / 100.0 }),
        _ => Err(format!("no processor time in {stat}").into()),
    }
}

/// Resident memory now and at most, in MiB.
///
/// # Errors
/// There is no such process.
pub fn memory(pid: u32) -> Outcome<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Outcome<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_takes_time() {
        let own = std::process::id();
        let (now, most) = memory(own).unwrap();
        assert!(now > 1.0 && most >= now, "{now}, {most}");
        assert!(processor_time(own).unwrap().total() >= 0.0);
    }
}
