//! The external scaler: relayed by every operator, served by the leader from what the controller decided.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::controller::context::Context;
use crate::scaler::{self, Decisions, LastDecision, Scaler, ScalerMetrics};

/// What the controller remembers, as the external scaler asks for it.
struct Remembered(Arc<Context>);

impl Decisions for Remembered {
    fn leads(&self) -> bool {
        self.0.fence.permits(Duration::ZERO, Instant::now())
    }

    fn last(&self, namespace: &str, service: &str) -> Option<LastDecision> {
        let record = self.0.records.get(namespace, service)?;
        Some(LastDecision {
            decision: record.decision.clone(),
            target_queue_time: record.policy.settings().target_queue_time,
            age: self.0.now().since(record.now),
        })
    }
}

/// Where the others reach this operator's scaler while it leads; none where there is no scaler.
pub(super) fn reached_at(args: &Args) -> Result<Option<SocketAddr>, String> {
    if args.scaler_address.is_none() {
        return Ok(None);
    }
    let ip = match args.pod_ip {
        Some(ip) => ip,
        None if !args.leader_elect => IpAddr::V4(Ipv4Addr::LOCALHOST),
        None => return Err("--scaler-address needs --pod-ip (POD_IP): the other operators must find the leader".into()),
    };
    Ok(Some(SocketAddr::new(ip, args.scaler_leader_address.port())))
}

/// Starts to hand connections on to the leader.
pub(super) async fn relay(
    args: &Args,
    leader: watch::Receiver<Option<SocketAddr>>,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let Some(address) = args.scaler_address else { return Ok(()) };
    let listener = bind(address).await?;
    tokio::spawn(scaler::relay(listener, leader, shutdown.clone()));
    Ok(())
}

/// Starts to serve as the leader.
pub(super) async fn lead(
    args: &Args,
    context: Arc<Context>,
    registry: &Registry,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if args.scaler_address.is_none() {
        return Ok(());
    }
    let listener = bind(args.scaler_leader_address).await?;
    let metrics = ScalerMetrics::register(registry)?;
    let scaler = Scaler::new(Arc::new(Remembered(context)), metrics, stop.clone());
    let stop = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = scaler::serve(listener, scaler, stop).await {
            tracing::error!(error = %error, "the external scaler ended");
        }
    });
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("the external scaler can't listen on {address}: {error}; choose another port"))
}
