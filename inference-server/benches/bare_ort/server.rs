//! The server's side: the whole program at saturation, over HTTP, and what its counters and the system say of it.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::Client;
use tokio::task::JoinSet;

use super::{Outcome, Slot, bare::cpu_seconds};

/// The program, ended with this value.
pub(super) struct Server {
    process: Child,
    http: String,
    metrics: String,
    /// Whether bodies are images.
    are_images: bool,
    batch: usize,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(super) fn start(model: &Path, library: &Path, batch: usize, are_images: bool) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let port = || Ok::<_, std::io::Error>(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port());
        let (http, metrics) = (port()?, port()?);
        let preset = if are_images { "Clip" } else { "None" };
        let settings = serde_json::json!({
            "version": 1, "model": {"name": "m", "path": model, "preprocessing": {"preset": preset}},
            "executionProvider": "Cpu",
            "batching": {"maxBatchSize": batch},
            "http": {"port": http, "maxConnectionAgeSeconds": 3600}, "grpc": {"port": 0}, "metrics": {"port": metrics},
        });
        let file = folder.path().join("settings.json");
        fs::write(&file, settings.to_string())?;
        let process = Command::new(env!("CARGO_BIN_EXE_flotilla-server"))
            .arg("--settings")
            .arg(&file)
            .env("FLOTILLA_ORT_LIBRARY", library)
            .env("FLOTILLA_LOG_LEVEL", "warn")
            .spawn()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        Ok(Self { process, http: url(http), metrics: url(metrics), are_images, batch, _folder: folder })
    }

    pub(super) async fn ready(&self, client: &Client) -> Outcome {
        for _ in 0..1200 {
            let answer = client.get(format!("{}/v2/health/ready", self.http)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the server was not ready within two minutes".into())
    }

    async fn counter(&self, client: &Client, name: &str) -> Outcome<f64> {
        let page = client.get(format!("{}/metrics", self.metrics)).send().await?.text().await?;
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{"))).ok_or("no such metric")?;
        Ok(line.rsplit(' ').next().ok_or("no value")?.parse()?)
    }

    /// Keeps two batches of requests under way, and counts what the server did meanwhile.
    pub(super) async fn slot(&self, client: &Client, requests: &[Bytes], slot: Duration) -> Outcome<Slot> {
        let mut clients = JoinSet::new();
        let is_over = Arc::new(AtomicBool::new(false));
        for index in 0..2 * self.batch {
            let (client, body) = (client.clone(), requests[index % requests.len()].clone());
            let url = format!("{}/v2/models/m/infer", self.http);
            let header =
                if self.are_images { ("content-type", "image/jpeg") } else { ("inference-header-content-length", "0") };
            let is_over = Arc::clone(&is_over);
            clients.spawn(async move {
                // Until it is measured, however long that takes: a batch that ends late would else be the last one.
                while !is_over.load(Ordering::Relaxed) {
                    let request = client.post(&url).header(header.0, header.1).body(body.clone());
                    let answer = request.send().await.map_err(|error| error.to_string())?;
                    if !answer.status().is_success() {
                        return Err(answer.text().await.unwrap_or_default());
                    }
                    answer.bytes().await.map_err(|error| error.to_string())?;
                }
                Ok(())
            });
        }
        // The first batch is what had come by then; the second one is full.
        self.next_batch(client).await?;
        let process = self.process.id().to_string();
        let read = async || -> Outcome<[f64; 3]> {
            let images = self.counter(client, "nv_inference_count").await?;
            let busy = self.counter(client, "flotilla_device_busy_seconds_total").await?;
            Ok([images, busy, cpu_seconds(&process)?])
        };
        // Images are counted when their batch ends, so the slot begins and ends with a batch.
        let begun = self.next_batch(client).await?;
        let before = read().await?;
        tokio::time::sleep(slot).await;
        let ended = self.next_batch(client).await?;
        let after = read().await?;
        is_over.store(true, Ordering::Relaxed);
        while let Some(result) = clients.join_next().await {
            result??;
        }
        let [images, busy, cpu] = [0, 1, 2].map(|index: usize| after[index] - before[index]);
        Ok(Slot { images, cpu, wall: (ended - begun).as_secs_f64(), busy })
    }

    /// Waits for the end of the batch that runs.
    async fn next_batch(&self, client: &Client) -> Outcome<Instant> {
        let before = self.counter(client, "nv_inference_exec_count").await?;
        let limit = Instant::now() + Duration::from_mins(1);
        while self.counter(client, "nv_inference_exec_count").await? <= before {
            if Instant::now() > limit {
                return Err("no batch ended within a minute".into());
            }
            // A look at the counters costs the server a little, and counts.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(Instant::now())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
