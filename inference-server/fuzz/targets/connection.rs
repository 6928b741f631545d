//! Any bytes on a connection: a server that answers plain requests without HTTP's library says the same as one whose requests are
//! watched, and so all are for the library.
#![no_main]

mod timer;

use std::{
    net::SocketAddr,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant},
};

use flotilla_server::lifecycle::{Listeners, run};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::{sleep, timeout},
};

/// The last request on a connection: whatever it ends in, the server closes.
const GOODBYE: &[u8] = b"\r\n\r\nGET /v2/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
/// Whoever is silent for so long waits for the rest of a body, which ends here. A server that was only slow gets the longer one.
const SILENCE: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];
const LIMIT: Duration = Duration::from_secs(15);

struct Servers {
    runtime: Runtime,
    fast: SocketAddr,
    library: SocketAddr,
    _folder: tempfile::TempDir,
}

static SERVERS: LazyLock<Servers> = LazyLock::new(|| {
    let folder = timer::folder();
    let runtime = Runtime::new().expect("a runtime");
    let [fast, library] = [false, true].map(|is_watched| runtime.block_on(server(folder.path(), is_watched)));
    Servers { runtime, fast, library, _folder: folder }
});

async fn server(model: &Path, is_watched: bool) -> SocketAddr {
    let settings = serde_json::json!({
        "version": 1,
        "model": {"name": "timer", "path": model},
        "http": {"maxBodyBytes": 6000},
        "accessLog": {"enabled": is_watched, "fraction": 0},
    });
    let settings = serde_json::from_value(settings).expect("settings");
    let listen = async || TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let listeners = Listeners { http: listen().await, grpc: listen().await, metrics: listen().await };
    let address = listeners.http.local_addr().expect("an address");
    tokio::spawn(run(settings, None, listeners, std::future::pending()));
    let begin = Instant::now();
    while !answers(address, &[b"GET /v2/health/ready HTTP/1.1\r\nhost: a"], SILENCE[1])
        .await
        .starts_with("HTTP/1.1 200")
    {
        assert!(begin.elapsed() < LIMIT, "the server is not ready");
        sleep(Duration::from_millis(50)).await;
    }
    address
}

/// What a server says to some pieces and a goodbye, until it closes; without what differs from answer to answer.
async fn answers(server: SocketAddr, pieces: &[&[u8]], silence: Duration) -> String {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    for piece in pieces.iter().copied().chain([GOODBYE]) {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        // So that the pieces arrive as such, mostly.
        sleep(Duration::from_millis(1)).await;
    }
    let mut all = Vec::new();
    while timeout(silence, stream.read_to_end(&mut all)).await.is_err() {
        drop(stream.shutdown().await);
    }
    let text = all.escape_ascii().to_string().replace("\\r\\n", "\n");
    let lines = text.lines().map(|line| match line.split_once(": ") {
        Some(("date", _)) => "date".to_owned(),
        Some(("server-timing", timing)) => timing.replace(|letter: char| letter.is_ascii_digit() || letter == '.', ""),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fuzz_target!(|sent: (u16, &[u8])| {
    let (at, bytes) = sent;
    // Mostly in one piece; cut somewhere else where it is short enough.
    let pieces: [&[u8]; 2] = bytes.split_at_checked(usize::from(at)).unwrap_or((bytes, b"")).into();
    let pieces: Vec<&[u8]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    let both = |silence| {
        let [fast, library] = [SERVERS.fast, SERVERS.library].map(|server| answers(server, &pieces, silence));
        SERVERS.runtime.block_on(async { tokio::join!(fast, library) })
    };
    let (mut fast, mut library) = both(SILENCE[0]);
    if fast != library {
        (fast, library) = both(SILENCE[1]);
    }
    // Behind a body that nobody reads the library closes the connection, unless all of it is there by then.
    let is_shorter = |one: &str, other: &str| !one.is_empty() && other.starts_with(one);
    let are_alike = fast == library || is_shorter(&fast, &library) || is_shorter(&library, &fast);
    assert!(are_alike, "{fast}\n\nand by the library\n\n{library}");
});
