//! The leader's gRPC server. Everything that a client can take of it is bounded.

use std::convert::Infallible;
use std::time::Duration;

use futures::{Stream, stream};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::limited::{Connection, Limited};
use super::service::{Decisions, Scaler};
use super::wire::external_scaler_server::ExternalScalerServer;

/// Connections at the same time. KEDA has one, for all ScaledObjects that name the same address.
const CONNECTIONS: usize = 128;
/// Calls at the same time on one connection.
const STREAMS: u32 = 256;
/// The largest question: a name, a namespace and the metadata of a trigger.
const MESSAGE_LIMIT: usize = 64 * 1024;
/// The largest list of headers.
const HEADER_LIMIT: u32 = 16 * 1024;
/// How long one call may take; none waits.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// At this age a connection takes no more calls, and a stream ends.
pub(super) const CONNECTION_AGE: Duration = Duration::from_mins(30);
/// A client is asked whether it is still there after this time, and dropped when it does not answer in as much again.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Serves on `listener` until `shutdown`.
///
/// # Errors
/// The server failed.
pub async fn serve<D: Decisions>(
    listener: TcpListener,
    scaler: Scaler<D>,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_LIMIT)
        .timeout(CALL_LIMIT)
        .max_connection_age(CONNECTION_AGE)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(ExternalScalerServer::new(scaler).max_decoding_message_size(MESSAGE_LIMIT))
        .serve_with_incoming_shutdown(connections(listener), shutdown.cancelled_owned())
        .await
}

fn connections(listener: TcpListener) -> impl Stream<Item = Result<Connection, Infallible>> {
    stream::unfold(Limited::new(listener, CONNECTIONS), |limited| async move {
        let connection = limited.accept().await;
        Some((Ok(connection), limited))
    })
}
