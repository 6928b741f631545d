//! What becomes of a pod's connection between two scrapes, against servers that keep it and servers that don't.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::client::{FetchError, Kept, MetricsClient};
use super::store::Target;
use crate::scaling::Monotonic;

const PAGE: &str = "nv_inference_count 1\n";

/// Gives `answers` one after the other on each connection and then closes it; counts connections.
async fn serve(answers: Vec<String>) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (port, taken) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counter = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut question = [0; 1024];
                for answer in answers {
                    // A question is short: it comes at once.
                    if stream.read(&mut question).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    (port, taken)
}

fn answer(head: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{head}content-length: {}\r\n\r\n{PAGE}", PAGE.len())
}

fn target(port: u16) -> Target {
    Target {
        pod: "pod".to_owned(),
        uid: "uid".to_owned(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        container_restarts: 0,
        ready_since: Monotonic::default(),
        model: "timer".to_owned(),
        instances: 1,
    }
}

/// Fetches some times and says how many connections that took.
async fn connections_of(fetches: u32, answers: Vec<String>) -> u32 {
    let (port, taken) = serve(answers).await;
    let (client, mut kept) = (MetricsClient::new(Duration::from_secs(20)), Kept::default());
    for _ in 0..fetches {
        let page = client.fetch(&target(port), &mut kept).await.unwrap();
        assert_eq!(page, PAGE);
    }
    taken.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_connection_serves_as_many_scrapes_as_the_server_lets_it() {
    assert_eq!(connections_of(5, vec![answer(""); 9]).await, 1, "kept by a server that keeps it");
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n15\r\n{PAGE}\r\n0\r\n\r\n");
    assert_eq!(connections_of(5, vec![chunked; 9]).await, 1, "in pieces, as servers in Go write");
    assert_eq!(connections_of(5, vec![answer("connection: close\r\n"); 9]).await, 5, "given up as the server says");
    assert_eq!(connections_of(5, vec![answer("")]).await, 5, "closed by the server without a word");
    let until_end = format!("HTTP/1.0 200 OK\r\n\r\n{PAGE}");
    assert_eq!(connections_of(5, vec![until_end]).await, 5, "a page that ends with its connection");
}

#[tokio::test]
async fn a_connection_with_more_on_it_than_was_asked_for_is_given_up() {
    assert_eq!(connections_of(3, vec![answer("") + &answer(""); 9]).await, 3);
}

#[tokio::test]
async fn another_address_gets_another_connection() {
    let ((first, _), (second, taken)) = (serve(vec![answer(""); 9]).await, serve(vec![answer(""); 9]).await);
    let (client, mut kept) = (MetricsClient::new(Duration::from_secs(20)), Kept::default());
    assert!(client.fetch(&target(first), &mut kept).await.is_ok());
    assert!(client.fetch(&target(second), &mut kept).await.is_ok());
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

/// On a kept connection that may be the server giving it up, so it is asked once more on a new one.
#[tokio::test]
async fn a_page_that_breaks_off_is_an_error() {
    let half = format!("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{PAGE}");
    let (port, taken) = serve(vec![half.clone()]).await;
    let broken = MetricsClient::new(Duration::from_secs(20)).fetch(&target(port), &mut Kept::default()).await;
    assert!(matches!(broken, Err(FetchError::Broken { .. })), "{broken:?}");
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    assert_eq!(connections_of(2, vec![answer(""), half]).await, 2);
}
