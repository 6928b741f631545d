//! The operator's program: arguments in, everything wired, one shutdown.

mod check;
mod scaler;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use prometheus::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controller::lease::{Candidate, Fence};
use crate::controller::setup::{self, Options};
use crate::explain::{self, Records, ScalingMetrics};
use crate::resources::Environment;
use crate::scrape::{Clock, Collector, CollectorSettings, ScrapeMetrics};
use crate::service::Defaults;
use crate::telemetry::{logs, metrics, server};

/// Oldest and newest minor version of Kubernetes that this version is made for.
const SUPPORTED_MINORS: std::ops::RangeInclusive<u32> = 33..=37;
/// How long visits under way may take to end after SIGTERM.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// Runs fleets of inference servers on Kubernetes and scales them on the time that requests wait.
#[derive(Clone, Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// Namespaces to look at, separated by commas; none: all
    #[arg(long, env = "FLOTILLA_WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// The operator's own namespace: where its Lease is, and whose pods may scrape the servers
    #[arg(long, env = "POD_NAMESPACE", default_value = "flotilla-system")]
    namespace: String,
    /// The operator's name in the Lease
    #[arg(long, env = "POD_NAME", default_value = "flotilla-operator")]
    identity: String,
    /// Where /metrics, /livez and /readyz are served
    #[arg(long, env = "FLOTILLA_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    http_address: SocketAddr,
    /// Whether several operators share the work by a Lease; without it there may be only one
    #[arg(long, env = "FLOTILLA_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// The Lease's name
    #[arg(long, env = "FLOTILLA_LEASE_NAME", default_value = "flotilla-operator")]
    lease_name: String,
    /// The server's image where a service names none
    #[arg(long, env = "FLOTILLA_SERVER_IMAGE", default_value = concat!("flotilla/server:", env!("CARGO_PKG_VERSION"), "-cpu"))]
    server_image: String,
    /// How often every server is scraped
    #[arg(long, env = "FLOTILLA_SCRAPE_INTERVAL_SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=10))]
    scrape_interval_seconds: u64,
    /// Whether pods may be patched, so that a scale-down takes those with the fewest requests waiting
    #[arg(long, env = "FLOTILLA_POD_DELETION_COST", default_value_t = false, action = clap::ArgAction::Set)]
    pod_deletion_cost: bool,
    /// Services that are visited at the same time
    #[arg(long, env = "FLOTILLA_MAX_CONCURRENT_RECONCILES", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    max_concurrent_reconciles: u16,
    /// Namespaces whose pods may scrape the servers' metrics besides the operator, separated by commas
    #[arg(long, env = "FLOTILLA_METRICS_NAMESPACES", value_delimiter = ',')]
    metrics_namespaces: Vec<String>,
    /// Where KEDA's external scaler is served, on every operator; none: nowhere
    #[arg(long, env = "FLOTILLA_SCALER_ADDRESS")]
    scaler_address: Option<SocketAddr>,
    /// Where the leader serves it to the other operators, which hand on what they get
    #[arg(long, env = "FLOTILLA_SCALER_LEADER_ADDRESS", default_value = "0.0.0.0:9091")]
    scaler_leader_address: SocketAddr,
    /// The address at which other operators reach this one
    #[arg(long, env = "POD_IP")]
    pod_ip: Option<IpAddr>,
    /// How log lines look
    #[arg(long, env = "FLOTILLA_LOG_FORMAT", value_enum, default_value = "json")]
    log_format: logs::Format,
    /// What is logged, for example info or flotilla=debug
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// Only look whether an installation works, and end: 0 where it does
    #[arg(long)]
    check: bool,
    /// With --check: where an operator's /readyz is
    #[arg(long, env = "FLOTILLA_CHECK_URL")]
    check_url: Option<String>,
}

/// Runs the operator until SIGTERM or the loss of its lease.
///
/// # Errors
/// What kept it from starting, or that the lease was lost.
pub async fn run(args: Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    logs::start(args.log_format, &args.log_level)?;
    let client = Client::try_default().await.map_err(|error| {
        format!(
            "no Kubernetes cluster to talk to: {error}; run inside one, or have a kubeconfig with a current context"
        )
    })?;
    if args.check {
        return check::run(client, &args).await;
    }
    let registry = Registry::new();
    let metrics = metrics::ControllerMetrics::register(&registry)?;
    let records = Arc::new(Records::default());
    ScalingMetrics::register(&registry, Arc::clone(&records))?;
    let shutdown = CancellationToken::new();
    let health = server::Health::default();
    let routes = server::routes(registry.clone(), health.clone()).merge(explain::router(Arc::clone(&records)));
    let serving = tokio::spawn(server::serve(args.http_address, routes, shutdown.clone()));
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    warn_if_unsupported(&client).await?;
    health.ready.store(true, Ordering::Release);

    let lease: Api<Lease> = Api::namespaced(client.clone(), &args.namespace);
    let candidate =
        Candidate::new(lease, args.lease_name.clone(), args.identity.clone()).reached_at(scaler::reached_at(&args)?);
    if !args.leader_elect {
        candidate.lead_alone();
    }
    scaler::relay(&args, candidate.leader(), &shutdown).await?;
    let fence = Arc::new(if args.leader_elect { Fence::default() } else { Fence::open() });
    if args.leader_elect && !candidate.acquire(&fence, &shutdown).await {
        return Ok(());
    }
    metrics.leading.set(1);
    records.lead();
    let seen = Seen { registry: &registry, metrics, records };
    let outcome = lead(client, &args, seen, Arc::clone(&fence), &candidate, &shutdown).await;
    shutdown.cancel();
    if args.leader_elect {
        candidate.release(&fence).await;
    }
    let _ = serving.await;
    outcome
}

/// What others see of the leader.
struct Seen<'a> {
    registry: &'a Registry,
    metrics: metrics::ControllerMetrics,
    records: Arc<Records>,
}

/// Everything that only the leader does.
async fn lead(
    client: Client,
    args: &Args,
    seen: Seen<'_>,
    fence: Arc<Fence>,
    candidate: &Candidate,
    shutdown: &CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Seen { registry, metrics, records } = seen;
    let scrape_interval = Duration::from_secs(args.scrape_interval_seconds);
    let clock = Clock::start();
    let collector =
        Arc::new(Collector::new(CollectorSettings::every(scrape_interval), clock, ScrapeMetrics::register(registry)?));
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    let options = Options {
        namespaces: args.watch_namespaces.iter().filter(|namespace| !namespace.is_empty()).cloned().collect(),
        defaults: Defaults { server_image: args.server_image.clone() },
        environment: Environment {
            operator_namespace: args.namespace.clone(),
            metrics_namespaces: args
                .metrics_namespaces
                .iter()
                .filter(|namespace| !namespace.is_empty())
                .cloned()
                .collect(),
        },
        instance: args.identity.clone(),
        scrape_interval,
        deletion_cost: args.pod_deletion_cost,
        clock,
        records,
    };
    let (context, scopes) =
        setup::start(client, options, metrics, Arc::clone(&collector), Arc::clone(&fence), &mut tasks).await?;
    tasks.spawn({
        let stop = stop.clone();
        async move { collector.run(stop).await }
    });
    scaler::lead(args, Arc::clone(&context), registry, &stop, &mut tasks).await?;
    let mut reconciling =
        tokio::spawn(crate::controller::run(context, scopes, args.max_concurrent_reconciles, stop.clone()));
    let lost = async {
        if args.leader_elect { !candidate.hold(&fence, shutdown).await } else { std::future::pending().await }
    };
    let lost = tokio::select! {
        // In this order: the end of the controller after SIGTERM is what was asked for.
        biased;
        () = shutdown.cancelled() => false,
        lost = lost => lost,
        _ = &mut reconciling => return Err("the controller ended by itself; see the log above".into()),
    };
    stop.cancel();
    if tokio::time::timeout(SHUTDOWN_LIMIT, reconciling).await.is_err() {
        tracing::warn!("visits under way did not end in time");
    }
    if lost { Err("the lease was lost; ending so that a fresh start can stand by".into()) } else { Ok(()) }
}

/// Cancels `shutdown` on SIGTERM or Ctrl-C.
fn cancel_on_signal(shutdown: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        shutdown.cancel();
    })
}

async fn warn_if_unsupported(client: &Client) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let version =
        client.apiserver_version().await.map_err(|error| format!("the API server does not answer: {error}"))?;
    let minor: u32 = version.minor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    if !SUPPORTED_MINORS.contains(&minor) {
        tracing::warn!(
            version = version.git_version,
            "this version of Kubernetes is not one of 1.{} to 1.{}, for which this operator is made and tested",
            SUPPORTED_MINORS.start(),
            SUPPORTED_MINORS.end()
        );
    }
    Ok(())
}
