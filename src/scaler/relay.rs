//! Every operator takes KEDA's connections and hands them on to the leader, whose address stands in the Lease.
//!
//! The Service in front knows only that all operators are ready; a connection to a standby would be of no use. What is
//! handed on are bytes, so this knows nothing of gRPC. Connections to a leader that is one no longer are cut: KEDA
//! connects again, and comes to the new one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::limited::{Connection, Limited};

/// Connections that one operator hands on at the same time.
const CONNECTIONS: usize = 64;
/// How long the leader may take to accept one.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Hands connections on to wherever `leader` says, until `shutdown`. While nobody leads, they are closed at once.
pub async fn relay(listener: TcpListener, leader: watch::Receiver<Option<SocketAddr>>, shutdown: CancellationToken) {
    let limited = Limited::new(listener, CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            connection = limited.accept() => {
                connections.spawn(hand_on(connection, leader.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    connections.shutdown().await;
}

async fn hand_on(mut connection: Connection, mut leader: watch::Receiver<Option<SocketAddr>>) {
    let Some(address) = *leader.borrow_and_update() else { return };
    let mut upstream = match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => {
            tracing::debug!(leader = %address, error = %error, "the leader's external scaler can't be reached");
            return;
        }
        Err(_) => {
            tracing::debug!(leader = %address, "the leader's external scaler does not answer");
            return;
        }
    };
    tokio::select! {
        _ = copy_bidirectional(&mut connection, &mut upstream) => {}
        _ = leader.wait_for(|leader| *leader != Some(address)) => {}
    }
}
