//! From start to stop: listen at once, load, warm up, serve, drain.
//!
//! The ports are open before the model is, so that a probe hears "live, not ready" instead of a closed door. After the shutdown
//! signal requests are still served for the drain delay, while readiness tells the load balancers to look elsewhere; then
//! no new ones begin, and what runs may finish.

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{Failure, Reason},
    grpc,
    http::{
        App,
        connections::{Limits, Protocol, Service, serve},
        metrics_router, service,
    },
    repository::Repository,
    settings::Settings,
    telemetry::Telemetry,
};

/// The most connections of clients.
const MAX_CONNECTIONS: usize = 4096;
/// How long the last traces may take once the last request is answered.
const FLUSH: Duration = Duration::from_secs(5);
/// The most connections of scrapers.
const MAX_METRICS_CONNECTIONS: usize = 64;
/// How often the runtime's clock is looked at when nothing else happens; sooner than every limit of a connection or a body.
const TICK: Duration = Duration::from_secs(1);

/// The open ports. The caller makes them, so that a test takes any free one.
#[derive(Debug)]
pub struct Listeners {
    /// For inference over HTTP.
    pub http: TcpListener,
    /// For inference over gRPC.
    pub grpc: TcpListener,
    /// For metrics.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Opens the ports that the settings name, on all addresses.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn bind(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self {
            http: listen(settings.http.port).await?,
            grpc: listen(settings.grpc.port).await?,
            metrics: listen(settings.metrics.port).await?,
        })
    }
}

async fn listen(port: u16) -> Result<TcpListener, Failure> {
    let taken = |error: io::Error| {
        let reason = if error.kind() == io::ErrorKind::AddrInUse { Reason::PortInUse } else { Reason::Internal };
        Failure::new(
            reason,
            format!("port {port} can't be opened: {error}"),
            "stop what uses the port, or set another one",
        )
    };
    match TcpListener::bind(("::", port)).await {
        // A machine without IPv6 has no "::".
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(("0.0.0.0", port)).await.map_err(taken)
        }
        result => result.map_err(taken),
    }
}

/// Runs a server until `shutdown`, and returns when it has drained.
///
/// # Errors
/// When the model can't be loaded.
pub async fn run(
    settings: Settings,
    library: Option<PathBuf>,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    // With port 0 in the settings, this line is where the ports can be read.
    if let (Ok(http), Ok(grpc), Ok(metrics)) =
        (listeners.http.local_addr(), listeners.grpc.local_addr(), listeners.metrics.local_addr())
    {
        tracing::info!(%http, %grpc, %metrics, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    let repository = Repository::open(settings.clone(), library)?;
    let telemetry = Telemetry::start(&settings)?;
    let app = App::new(Arc::clone(&repository), Arc::clone(&telemetry), settings.http.max_body_bytes);
    let stop = CancellationToken::new();
    let serve_clients = |listener, service: Service, protocol| {
        let limits = Limits {
            protocol,
            max_connections: MAX_CONNECTIONS,
            max_age: Some(Duration::from_secs(settings.http.max_connection_age_seconds)),
        };
        let (app, telemetry) = (Arc::clone(&app), Arc::clone(&telemetry));
        let is_leaving = move || app.is_leaving.load(Ordering::Acquire);
        tokio::spawn(serve(listener, service, limits, telemetry, is_leaving, stop.clone()))
    };
    let http = serve_clients(listeners.http, service(Arc::clone(&app)), Protocol::Http);
    let grpc = serve_clients(listeners.grpc, grpc::router(&app).into(), Protocol::Grpc);
    let metrics_limits = Limits { protocol: Protocol::Http, max_connections: MAX_METRICS_CONNECTIONS, max_age: None };
    let scraped = metrics_router(Arc::clone(&app));
    // Scrapes are nobody's requests.
    let unwatched = Arc::default();
    let scrapers = serve(listeners.metrics, scraped, metrics_limits, unwatched, || false, CancellationToken::new());
    // Scrapers are answered to the very end, and nobody waits for them.
    let scrapers = tokio::spawn(scrapers);
    let ticks = tokio::spawn(tick());

    let drain = settings.drain.clone();
    let loaded = start_loader(Arc::clone(&repository))?;
    let mut shutdown = std::pin::pin!(shutdown);
    tokio::select! {
        biased;
        () = &mut shutdown => {}
        result = loaded => {
            result.unwrap_or_else(|_| Err(Failure::internal("the loader ended without a result")))?;
            shutdown.await;
        }
    }

    tracing::info!(delay_seconds = drain.delay_seconds, "shutting down: not ready from now on");
    app.is_leaving.store(true, Ordering::Release);
    tokio::time::sleep(Duration::from_secs(drain.delay_seconds)).await;
    repository.drain();
    stop.cancel();
    if tokio::time::timeout(Duration::from_secs(drain.timeout_seconds), async { tokio::join!(http, grpc) })
        .await
        .is_ok()
    {
        tracing::info!("drained");
    } else {
        tracing::warn!(timeout_seconds = drain.timeout_seconds, "requests are still running; they are cut");
    }
    telemetry.flush(FLUSH).await;
    scrapers.abort();
    ticks.abort();
    Ok(())
}

/// Keeps one timer in the runtime that is sooner than those of requests. A timer that is sooner than all others costs two system
/// calls, and without this one the limit on a request's headers would be just that, with each request anew.
async fn tick() {
    loop {
        tokio::time::sleep(TICK).await;
    }
}

/// Loads on a thread of its own: the process can end without it, which a task on the runtime's blocking pool would prevent.
fn start_loader(repository: Arc<Repository>) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
    let (done, loaded) = oneshot::channel();
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(|| repository.load_all()))
            .unwrap_or_else(|_| Err(Failure::internal("loading the models panicked")));
        drop(done.send(result));
    };
    thread::Builder::new()
        .name("loader".to_owned())
        .spawn(work)
        .map_err(|error| Failure::internal(&format!("the system gives no thread: {error}")))?;
    Ok(loaded)
}
