//! The least that a server can cost: each read is answered by a write, and nothing is looked at.
//!
//! `benches/request_cost.py --least` runs it beside the server, so that its figures can be told from the machine's.

use std::io::Write as _;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// An answer of the size that the server's has.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 256\r\n\r\n";
const BODY: [u8; 256] = [b' '; 256];

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let answer = [ANSWER, &BODY].concat();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}
