//! One process that answers `/metrics` on the addresses of all pods, and counts when each was asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::PORT;
use super::page::Template;
use crate::Outcome;

/// Times between two scrapes of a pod are counted in steps of this.
pub const STEP: Duration = Duration::from_millis(10);
/// Longer ones count as the last step.
const STEPS: usize = 3000;
/// Longest question.
const QUESTION_LIMIT: usize = 4 << 10;

/// What was asked so far.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Asked {
    /// Pages given.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Connections taken.
    pub connections: u64,
    /// How many scrapes came so many [`STEP`]s after the one before of the same pod.
    pub gaps: Vec<u64>,
}

struct Fleet {
    template: Template,
    started: Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: Asked,
    last: HashMap<IpAddr, Instant>,
}

/// Answers until it is killed. What was [`Asked`] is told on the loopback address.
///
/// # Errors
/// The port is taken.
pub async fn serve() -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let fleet = Arc::new(Fleet { template: Template::real(), started: Instant::now(), seen: Mutex::default() });
    fleet.seen.lock().unwrap_or_else(PoisonError::into_inner).asked.gaps = vec![0; STEPS];
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(Arc::clone(&fleet).converse(stream));
    }
}

impl Fleet {
    async fn converse(self: Arc<Self>, mut stream: TcpStream) {
        let Ok(local) = stream.local_addr() else { return };
        let told = if local.ip().is_loopback() { Self::tell } else { Self::page };
        if !local.ip().is_loopback() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).asked.connections += 1;
        }
        let _ = stream.set_nodelay(true);
        let (mut question, mut length) = ([0; 512], 0);
        loop {
            // Questions have no body, and nobody here asks the next one before the answer.
            match stream.read(&mut question).await {
                Ok(read) if read > 0 && length < QUESTION_LIMIT => length += read,
                _ => return,
            }
            if !question.windows(4).any(|end| end == b"\r\n\r\n") {
                continue;
            }
            (question, length) = ([0; 512], 0);
            let body = told(&self, local);
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn page(&self, local: SocketAddr) -> String {
        let number = match local.ip() {
            IpAddr::V4(address) => u32::from(address),
            IpAddr::V6(_) => 0,
        };
        let mut page = String::with_capacity(12 << 10);
        // An hour old, so that all counters are long past 0.
        let seconds = 3600.0 + self.started.elapsed().as_secs_f64();
        self.template.write(&mut page, seconds, 0.8 + f64::from(number % 41) / 100.0);
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.last.insert(local.ip(), now);
        seen.asked.pages += 1;
        seen.asked.bytes += page.len() as u64;
        if let Some(before) = before {
            let step = usize::try_from((now - before).as_millis() / STEP.as_millis()).unwrap_or(STEPS);
            if let Some(count) = seen.asked.gaps.get_mut(step.min(STEPS - 1)) {
                *count += 1;
            }
        }
        page
    }

    fn tell(&self, _: SocketAddr) -> String {
        serde_json::to_string(&self.seen.lock().unwrap_or_else(PoisonError::into_inner).asked).unwrap_or_default()
    }
}

/// Asks the fleet's process what it was asked.
///
/// # Errors
/// It does not answer.
pub async fn asked() -> Outcome<Asked> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    Ok(http.get(format!("http://127.0.0.1:{PORT}/asked")).send().await?.json().await?)
}

impl Asked {
    /// What was asked since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            pages: self.pages - before.pages,
            bytes: self.bytes - before.bytes,
            connections: self.connections - before.connections,
            gaps: self.gaps.iter().zip(&before.gaps).map(|(now, then)| now - then).collect(),
        }
    }

    /// The share of scrapes that came one interval after the one before, within a tenth of it.
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn on_time(&self, interval: Duration) -> f64 {
        let after = |step: usize| STEP * u32::try_from(step).unwrap_or(u32::MAX);
        let near = |step: usize| after(step) + STEP > interval * 9 / 10 && after(step) < interval * 11 / 10;
        let on_time: u64 = self.gaps.iter().enumerate().filter(|(step, _)| near(*step)).map(|(_, count)| count).sum();
        on_time as f64 / self.gaps.iter().sum::<u64>().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_time_is_one_interval_after_the_last() {
        let mut gaps = vec![0; STEPS];
        // 4.99 s, 5.2 s; 2.5 s, 7.4 s and half a minute.
        (gaps[499], gaps[520], gaps[250], gaps[740], gaps[STEPS - 1]) = (6, 1, 1, 1, 1);
        let asked = Asked { gaps, ..Asked::default() };
        assert!((asked.on_time(Duration::from_secs(5)) - 0.7).abs() < 1e-9);
        assert!((asked.on_time(Duration::from_secs(2)) - 0.0).abs() < 1e-9);
    }
}
