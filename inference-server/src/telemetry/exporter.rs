//! How spans leave the server: a thread of its own sends them to a collector, many at a time. A collector that is away or slow
//! costs spans and never a request.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{IdGenerator as _, RandomIdGenerator, SpanExporter as _},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{runtime::Builder, sync::oneshot};

use super::{record::Record, spans::spans};
use crate::{
    failure::{Failure, Reason},
    outbox::Outbox,
};

/// The most requests that wait to be sent; as many may be on their way.
pub const MAX_REQUESTS: usize = 2048;
/// The most requests in one message.
const MESSAGE: usize = 512;
/// How long a request may wait for others to be sent with it.
const LINGER: Duration = Duration::from_secs(1);
/// One attempt; all attempts at a message together take `OTEL_EXPORTER_OTLP_TIMEOUT`, 10 s where it is not set.
const ATTEMPT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// What traces call the server where nothing else names it.
const SERVICE: &str = "flotilla-server";
const SERVICE_NAME: &str = "service.name";

/// Sends spans.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

#[derive(Debug)]
struct Shared {
    outbox: Outbox<Record>,
    exported: AtomicU64,
    failed: AtomicU64,
}

impl Exporter {
    /// Starts the thread, which sends to `url`.
    ///
    /// # Errors
    /// When OpenTelemetry's variables can't be used, or the system gives no thread.
    pub fn start(url: &str) -> Result<Self, Failure> {
        let exporter = build(url)?;
        let shared = Arc::new(Shared {
            outbox: Outbox::new(MAX_REQUESTS),
            exported: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let no_thread = |error: std::io::Error| Failure::internal(&format!("the system gives no thread: {error}"));
        // Its own runtime: what waits for a collector is on none of the threads that requests need.
        let runtime = Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let (done, ended) = oneshot::channel();
        let work = {
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(send_all(&shared, &exporter));
                drop(done);
            }
        };
        thread::Builder::new().name("traces".to_owned()).spawn(work).map_err(no_thread)?;
        Ok(Self { shared, ended: Mutex::new(Some(ended)) })
    }

    /// Sends a request's spans with the next ones, or drops them where there is no room.
    pub fn put(&self, record: Record) {
        self.shared.outbox.put(record, 1, false);
    }

    /// Takes no more, and waits until the last are sent, for so long at most.
    pub async fn flush(&self, limit: Duration) {
        self.shared.outbox.close();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended
            && tokio::time::timeout(limit, ended).await.is_err()
        {
            tracing::warn!(limit_seconds = limit.as_secs(), "the last traces could not be exported in time");
        }
    }

    /// How many requests' spans went which way.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let Shared { outbox, exported, failed } = &*self.shared;
        [
            ("exported", exported.load(Ordering::Relaxed)),
            ("failed", failed.load(Ordering::Relaxed)),
            ("dropped", outbox.dropped()),
        ]
    }
}

/// A server that is gone has nothing more to tell.
impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.outbox.close();
    }
}

async fn send_all(shared: &Shared, exporter: &SpanExporter) {
    let scope = InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION")).build();
    let ids = RandomIdGenerator::default();
    let mut is_failing = false;
    // The runtime has nothing else to do while the thread waits here.
    while let Some(records) = shared.outbox.take(LINGER) {
        for records in records.chunks(MESSAGE) {
            let message = records.iter().flat_map(|record| spans(record, &scope, || ids.new_span_id())).collect();
            match exporter.export(message).await {
                Ok(()) => {
                    shared.exported.fetch_add(records.len() as u64, Ordering::Relaxed);
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("traces are exported again");
                    }
                }
                Err(error) => {
                    shared.failed.fetch_add(records.len() as u64, Ordering::Relaxed);
                    // Once, and not for every message while a collector is away.
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "traces can't be exported; they are dropped until that works again");
                    }
                }
            }
        }
    }
}

fn build(url: &str) -> Result<SpanExporter, Failure> {
    let unusable = |error: String| {
        Failure::new(
            Reason::SettingsInvalid,
            format!("traces can't be exported to {url}: {error}"),
            "correct tracing.endpoint or OpenTelemetry's variables (OTEL_EXPORTER_OTLP_…); docs/tracing.md has them",
        )
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    let tls = tls().map_err(|error| unusable(error.to_string()))?;
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(HyperClient::new(connector, ATTEMPT, None))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    exporter.set_resource(&resource());
    Ok(exporter)
}

/// Trusts the system's certificates and Mozilla's.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What the traces are of, by `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
fn resource() -> Resource {
    let name = Resource::builder().build().get(&SERVICE_NAME.into()).map(|name| name.to_string()).unwrap_or_default();
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if name.is_empty() || name.starts_with("unknown_service") {
        resource = resource.with_service_name(SERVICE);
    }
    resource.build()
}
