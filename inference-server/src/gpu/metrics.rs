//! `nv_gpu_*` as Triton has them, with the one label `gpu_uuid`. A thread of its own reads them, so that a driver that hangs
//! holds up nobody's scrape; readings older than ten seconds are not shown.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use prometheus::{CounterVec, Encoder as _, Error, GaugeVec, Opts, Registry, TextEncoder};

use super::{Driver, Reading, Source, nvml};

/// Triton's interval.
const INTERVAL: Duration = Duration::from_secs(2);
/// A reading is shown for so long.
const FRESH: Duration = Duration::from_secs(10);

const UUID: &str = "gpu_uuid";

/// The last readings, as text.
#[derive(Debug, Clone, Default)]
pub struct Page(Arc<Mutex<Option<(Instant, String)>>>);

impl Page {
    /// The series in the text format; nothing where there is no GPU or its driver has fallen silent.
    pub fn text(&self) -> String {
        self.text_at(Instant::now())
    }

    fn text_at(&self, now: Instant) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((read, text)) if now.saturating_duration_since(*read) < FRESH => text.clone(),
            _ => String::new(),
        }
    }

    fn put(&self, now: Instant, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, text));
    }
}

/// Starts to read the GPUs of this machine, if it has a driver.
pub fn start() -> Page {
    let page = Page::default();
    if let Some(nvml) = nvml() {
        let shown = page.clone();
        let spawned =
            thread::Builder::new().name("gpu-metrics".to_owned()).spawn(move || read_on(&Driver(nvml), &shown));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for the metrics of GPUs");
        }
    }
    page
}

fn read_on(source: &impl Source, page: &Page) {
    let mut first = Vec::new();
    let mut is_silent = false;
    loop {
        match source.read() {
            Ok(readings) => {
                if first.is_empty() {
                    first.clone_from(&readings);
                }
                is_silent = false;
                match text(&readings, &first) {
                    Ok(text) => page.put(Instant::now(), text),
                    Err(error) => tracing::debug!(%error, "the readings of GPUs can't be shown"),
                }
            }
            Err(error) if !is_silent => {
                is_silent = true;
                tracing::warn!(error, "the NVIDIA driver does not answer");
            }
            Err(_) => {}
        }
        thread::sleep(INTERVAL);
    }
}

/// The series. Energy counts from the server's start, so the first readings are taken off.
fn text(readings: &[Reading], first: &[Reading]) -> Result<String, Error> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str| {
        let gauge = GaugeVec::new(Opts::new(name, help), &[UUID])?;
        registry.register(Box::new(gauge.clone())).map(|()| gauge)
    };
    let gauges = [
        gauge("nv_gpu_utilization", "GPU utilization rate [0.0 - 1.0)")?,
        gauge("nv_gpu_memory_total_bytes", "GPU total memory, in bytes")?,
        gauge("nv_gpu_memory_used_bytes", "GPU used memory, in bytes")?,
        gauge("nv_gpu_power_usage", "GPU power usage in watts")?,
        gauge("nv_gpu_power_limit", "GPU power management limit in watts")?,
    ];
    let energy = CounterVec::new(
        Opts::new("nv_energy_consumption", "GPU energy consumption in joules since the server started"),
        &[UUID],
    )?;
    registry.register(Box::new(energy.clone()))?;
    for reading in readings {
        let values =
            [reading.utilization, reading.memory_total, reading.memory_used, reading.power_usage, reading.power_limit];
        for (gauge, value) in gauges.iter().zip(values) {
            if let Some(value) = value {
                gauge.with_label_values(&[&reading.uuid]).set(value);
            }
        }
        let start = first.iter().find(|start| start.uuid == reading.uuid).and_then(|start| start.energy);
        if let (Some(now), Some(start)) = (reading.energy, start) {
            energy.with_label_values(&[&reading.uuid]).inc_by((now - start).max(0.0));
        }
    }
    let mut page = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut page)?;
    String::from_utf8(page).map_err(|error| Error::Msg(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(uuid: &str, energy: f64) -> Reading {
        Reading {
            uuid: uuid.to_owned(),
            utilization: Some(0.5),
            memory_total: Some(17_179_869_184.0),
            memory_used: Some(1024.0),
            power_usage: Some(61.25),
            power_limit: Some(320.0),
            energy: Some(energy),
        }
    }

    #[test]
    fn the_series_are_triton_s_with_their_one_label() {
        let page = text(&[reading("GPU-1", 1200.5)], &[reading("GPU-1", 1000.0)]).unwrap();
        let series: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                r#"nv_energy_consumption{gpu_uuid="GPU-1"} 200.5"#,
                r#"nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 17179869184"#,
                r#"nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 1024"#,
                r#"nv_gpu_power_limit{gpu_uuid="GPU-1"} 320"#,
                r#"nv_gpu_power_usage{gpu_uuid="GPU-1"} 61.25"#,
                r#"nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5"#,
            ]
        );
        assert!(page.contains("# TYPE nv_energy_consumption counter"), "{page}");
        assert!(page.contains("# TYPE nv_gpu_utilization gauge"), "{page}");
    }

    #[test]
    fn what_a_gpu_does_not_say_has_no_series() {
        let silent = Reading { uuid: "GPU-2".to_owned(), memory_total: Some(8.0), ..Reading::default() };
        let page = text(&[reading("GPU-1", 5.0), silent.clone()], &[reading("GPU-1", 5.0), silent]).unwrap();
        let of_second: Vec<&str> = page.lines().filter(|line| line.contains("GPU-2")).collect();
        assert_eq!(of_second, [r#"nv_gpu_memory_total_bytes{gpu_uuid="GPU-2"} 8"#]);
        assert_eq!(text(&[], &[]).unwrap(), "");
    }

    #[test]
    fn old_readings_are_not_shown() {
        let page = Page::default();
        let now = Instant::now();
        assert_eq!(page.text_at(now), "");
        page.put(now, "series".to_owned());
        assert_eq!(page.text_at(now + FRESH / 2), "series");
        assert_eq!(page.text_at(now + FRESH), "");
    }

    /// A driver that answers once and then never again.
    struct Dying(Mutex<bool>);

    impl Source for Dying {
        fn read(&self) -> Result<Vec<Reading>, String> {
            let mut has_answered = self.0.lock().unwrap();
            if std::mem::replace(&mut *has_answered, true) {
                return Err("GPU is lost".to_owned());
            }
            Ok(vec![reading("GPU-1", 7.0)])
        }
    }

    #[test]
    fn the_thread_reads_at_once() {
        let page = Page::default();
        let shown = page.clone();
        thread::spawn(move || read_on(&Dying(Mutex::new(false)), &shown));
        let deadline = Instant::now() + Duration::from_secs(20);
        while page.text().is_empty() {
            assert!(Instant::now() < deadline, "no reading");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(page.text().contains(r#"nv_energy_consumption{gpu_uuid="GPU-1"} 0"#));
    }
}
