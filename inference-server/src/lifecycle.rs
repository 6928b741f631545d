//! From start to stop: listen at once, load, warm up, serve, drain.
//!
//! The ports are open before the model is, so that a probe hears "live, not ready" instead of a closed door. After the shutdown
//! signal requests are still served for the drain delay, while readiness tells the load balancers to look elsewhere; then
//! no new ones begin, and what runs may finish.

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    device::{Device, onnx::Onnx, timer::Timer},
    engine::{DEFAULT_TIMEOUT, Engine, EngineConfig, Images, batch::Policy},
    failure::{Failure, Reason},
    http::{
        App, Serving,
        connections::{Limits, serve},
        metrics_router, router,
    },
    image::Preprocessor,
    metrics::Metrics,
    model::{Kind, ModelFiles},
    settings::{Preset, Settings},
    warm_up::warm_up,
};

/// The most connections of clients.
const MAX_CONNECTIONS: usize = 4096;
/// The most connections of scrapers.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// The open ports. The caller makes them, so that a test takes any free one.
#[derive(Debug)]
pub struct Listeners {
    /// For inference.
    pub http: TcpListener,
    /// For metrics.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Opens the ports that the settings name, on all addresses.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn bind(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { http: listen(settings.http.port).await?, metrics: listen(settings.metrics.port).await? })
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
    if let (Ok(http), Ok(metrics)) = (listeners.http.local_addr(), listeners.metrics.local_addr()) {
        tracing::info!(%http, %metrics, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    let app = App::new(settings.model.name.clone(), settings.http.max_body_bytes);
    let stop = CancellationToken::new();
    let clients = {
        let app = Arc::clone(&app);
        let limits = Limits {
            max_connections: MAX_CONNECTIONS,
            max_age: Some(Duration::from_secs(settings.http.max_connection_age_seconds)),
        };
        let is_leaving = {
            let app = Arc::clone(&app);
            move || app.is_leaving.load(Ordering::Acquire)
        };
        tokio::spawn(serve(listeners.http, router(app), limits, is_leaving, stop.clone()))
    };
    let metrics_limits = Limits { max_connections: MAX_METRICS_CONNECTIONS, max_age: None };
    let scrapers =
        serve(listeners.metrics, metrics_router(Arc::clone(&app)), metrics_limits, || false, CancellationToken::new());
    // Scrapers are answered to the very end, and nobody waits for them.
    let scrapers = tokio::spawn(scrapers);

    let drain = settings.drain.clone();
    let loaded = start_loader(Arc::clone(&app), settings, library)?;
    let mut shutdown = std::pin::pin!(shutdown);
    tokio::select! {
        biased;
        () = &mut shutdown => {}
        result = loaded => {
            result.unwrap_or_else(|_| Err(internal("the loader ended without a result")))?;
            shutdown.await;
        }
    }

    tracing::info!(delay_seconds = drain.delay_seconds, "shutting down: not ready from now on");
    app.is_leaving.store(true, Ordering::Release);
    tokio::time::sleep(Duration::from_secs(drain.delay_seconds)).await;
    if let Some(serving) = app.serving.get() {
        serving.engine.drain();
    }
    stop.cancel();
    if tokio::time::timeout(Duration::from_secs(drain.timeout_seconds), clients).await.is_ok() {
        tracing::info!("drained");
    } else {
        tracing::warn!(timeout_seconds = drain.timeout_seconds, "requests are still running; they are cut");
    }
    scrapers.abort();
    Ok(())
}

/// Loads on a thread of its own: the process can end without it, which a task on the runtime's blocking pool would prevent.
fn start_loader(
    app: Arc<App>,
    settings: Settings,
    library: Option<PathBuf>,
) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
    let (done, loaded) = oneshot::channel();
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(|| load(&app, &settings, library.as_deref())))
            .unwrap_or_else(|_| Err(internal("loading the model panicked")));
        drop(done.send(result));
    };
    thread::Builder::new()
        .name("loader".to_owned())
        .spawn(work)
        .map_err(|error| internal(&format!("the system gives no thread: {error}")))?;
    Ok(loaded)
}

fn load(app: &App, settings: &Settings, library: Option<&Path>) -> Result<(), Failure> {
    let start = Instant::now();
    let files = ModelFiles::find(&settings.model.path)?;
    let metrics =
        Arc::new(Metrics::new(&settings.model.name, &files.version).map_err(|error| internal(&error.to_string()))?);
    drop(app.metrics.set(Arc::clone(&metrics)));
    let sha256 = files.sha256().map_err(|error| {
        let message = format!("{} can't be read: {error}", files.file.display());
        Failure::new(Reason::ModelLoadFailed, message, "make the model's files readable for the server's user")
    })?;

    let mut device: Box<dyn Device> = match files.kind {
        Kind::Onnx => Box::new(Onnx::load(library, &files.file, settings.execution_provider)?),
        Kind::Timer => Box::new(Timer::load(&files.file)?),
    };
    let images = match (files.kind, settings.model.preprocessing.preset) {
        (Kind::Timer, Preset::None) => Images::Refused,
        (Kind::Timer, _) => Images::Ignored,
        (Kind::Onnx, preset) => Preprocessor::new(preset, device.signature())?
            .map_or(Images::Refused, |preprocessor| Images::Decoded(Arc::new(preprocessor))),
    };
    warm_up(device.as_mut(), settings.batching.max_batch_size)?;
    let provider = device.provider();

    let config = EngineConfig {
        model: settings.model.name.clone(),
        policy: Policy { max_rows: settings.batching.max_batch_size, max_delay: settings.max_queue_delay() },
        max_queue_size: settings.batching.max_queue_size,
        images,
        // One core is left to the network and to the thread that feeds the device.
        decode_threads: thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1),
        buckets: Vec::new(),
        max_request_rows: 8 * settings.batching.max_batch_size,
        priority_levels: 1,
        default_priority: 1,
        default_timeout: DEFAULT_TIMEOUT,
    };
    metrics.set_info(provider, &sha256).map_err(|error| internal(&error.to_string()))?;
    let engine = Engine::start(vec![device], config, metrics).map_err(|error| internal(&error.to_string()))?;
    drop(app.serving.set(Serving { engine, version: files.version }));
    tracing::info!(
        model = settings.model.name,
        provider,
        model_sha256 = sha256,
        seconds = start.elapsed().as_secs_f64(),
        "the model is ready"
    );
    Ok(())
}

fn internal(message: &str) -> Failure {
    Failure::new(Reason::Internal, message, "report this with the server's log")
}
