//! Whether a request is of the plain kind. Whatever has a doubt is for the library, which knows what to do with it.

use std::mem::MaybeUninit;

use httparse::{Request, Status};

const START: &str = "/v2/models/";
/// More headers than any client of inference sends.
const MAX_HEADERS: usize = 24;

/// What stands at the beginning of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head<'a> {
    /// Nothing yet.
    Nothing,
    /// An inference.
    Infer(Infer<'a>),
    /// Anything else, or a part of a head.
    Other,
}

/// An inference: the parts of its head that matter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Infer<'a> {
    /// The model.
    pub(super) model: &'a str,
    /// Its version.
    pub(super) version: Option<&'a str>,
    /// `Content-Type`.
    pub(super) content_type: Option<&'a [u8]>,
    /// `Inference-Header-Content-Length`.
    pub(super) header_length: Option<&'a [u8]>,
    /// `Accept-Encoding`.
    pub(super) accept_encoding: Option<&'a [u8]>,
    /// The bytes of the head.
    pub(super) head: usize,
    /// The bytes of the body.
    pub(super) body: usize,
}

impl Infer<'_> {
    /// The bytes of head and body.
    pub(super) fn length(&self) -> usize {
        self.head.saturating_add(self.body)
    }
}

/// Reads a head.
pub(super) fn read(bytes: &[u8]) -> Head<'_> {
    if bytes.is_empty() { Head::Nothing } else { infer(bytes).map_or(Head::Other, Head::Infer) }
}

fn infer(bytes: &[u8]) -> Option<Infer<'_>> {
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut request = Request::new(&mut []);
    let Ok(Status::Complete(head)) = request.parse_with_uninit_headers(bytes, &mut headers) else { return None };
    if request.method != Some("POST") || request.version != Some(1) {
        return None;
    }
    let (model, version) = target(request.path?)?;
    let (mut content_type, mut header_length, mut accept_encoding, mut body) = (None, None, None, None);
    for header in &*request.headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // By its length first: a name is compared with one of the same length, or with none.
        let place = match header.name.len() {
            12 if is("content-type") => &mut content_type,
            31 if is("inference-header-content-length") => &mut header_length,
            15 if is("accept-encoding") => &mut accept_encoding,
            14 if is("content-length") => &mut body,
            10 if is("connection") && header.value.eq_ignore_ascii_case(b"keep-alive") => continue,
            // They say how the message is to be read, or what is to be done with the connection.
            2 if is("te") => return None,
            6 if is("expect") => return None,
            7 if is("trailer") || is("upgrade") => return None,
            10 if is("connection") => return None,
            16 if is("content-encoding") => return None,
            17 if is("transfer-encoding") => return None,
            _ => continue,
        };
        if place.replace(header.value).is_some() {
            return None;
        }
    }
    Some(Infer { model, version, content_type, header_length, accept_encoding, head, body: length(body?)? })
}

/// The model and the version of a path without anything to decode.
fn target(path: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = path.strip_prefix(START)?.split('/');
    let model = parts.next().filter(|model| !model.is_empty() && model.bytes().all(is_plain))?;
    let version = match [parts.next(), parts.next(), parts.next(), parts.next()] {
        [Some("infer"), None, None, None] => None,
        [Some("versions"), Some(version), Some("infer"), None] if is_number(version.as_bytes()) => Some(version),
        _ => return None,
    };
    Some((model, version))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn length(value: &[u8]) -> Option<usize> {
    str::from_utf8(value).ok().filter(|_| is_number(value))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str, headers: &[&str]) -> String {
        [&[line], headers, &["", ""]].concat().join("\r\n")
    }

    const LINE: &str = "POST /v2/models/clip/infer HTTP/1.1";

    #[test]
    fn an_inference_is_read() {
        let headers = [
            "Host: a",
            "content-length: 7",
            "Content-Type: application/json",
            "Inference-Header-Content-Length: 5",
            "Accept-Encoding: gzip",
            "Connection: Keep-Alive",
            "X-Other: 1",
        ];
        let text = request("POST /v2/models/clip-b.32_x/versions/12/infer HTTP/1.1", &headers);
        let expected = Infer {
            model: "clip-b.32_x",
            version: Some("12"),
            content_type: Some(b"application/json"),
            header_length: Some(b"5"),
            accept_encoding: Some(b"gzip"),
            head: text.len(),
            body: 7,
        };
        assert_eq!(expected.length(), text.len() + 7);
        // What is behind the head does not matter yet.
        assert_eq!(read((text.clone() + "{}").as_bytes()), Head::Infer(expected));
        assert_eq!(read(b""), Head::Nothing);
        for length in 1..text.len() {
            assert_eq!(read(&text.as_bytes()[..length]), Head::Other, "the first {length} bytes");
        }
    }

    #[test]
    fn what_is_not_plain_is_for_the_library() {
        let one = ["content-length: 7"];
        assert!(matches!(read(request(LINE, &one).as_bytes()), Head::Infer(_)), "the rows below differ from it");
        for line in [
            "GET /v2/models/clip/infer HTTP/1.1",
            "POST /v2/models/clip/infer HTTP/1.0",
            "POST /v2/models/clip HTTP/1.1",
            "POST /v2/models//infer HTTP/1.1",
            "POST /v2/models/clip/infer/ HTTP/1.1",
            "POST /v2/models/clip/infer/more HTTP/1.1",
            "POST /v2/models/clip/versions/1 HTTP/1.1",
            "POST /v2/models/clip/versions/x/infer HTTP/1.1",
            "POST /v2/models/clip/versions//infer HTTP/1.1",
            "POST /v2/models/cl%69p/infer HTTP/1.1",
            "POST /v2/models/clip/infer?a=1 HTTP/1.1",
            "POST http://host/v2/models/clip/infer HTTP/1.1",
            "\r\nPOST /v2/models/clip/infer HTTP/1.0",
            "PRI * HTTP/2.0",
        ] {
            assert_eq!(read(request(line, &one).as_bytes()), Head::Other, "{line}");
        }
        for other in [
            "content-length: 7",
            "Content-Length: 8",
            "content-type: a\r\ncontent-type: a",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
            "Connection: close",
            "Connection: upgrade",
            "Upgrade: h2c",
            "Content-Encoding: gzip",
            "Trailer: x",
            "TE: trailers",
            "a b: c",
        ] {
            assert_eq!(read(request(LINE, &[one[0], other]).as_bytes()), Head::Other, "{other}");
        }
        for length in ["content-length: +7", "content-length: -1", "content-length: 7, 7", "content-length:", "a: b"] {
            assert_eq!(read(request(LINE, &[length]).as_bytes()), Head::Other, "{length}");
        }
        let many = vec!["a: b"; MAX_HEADERS];
        assert_eq!(read(request(LINE, &[&one[..], &many].concat()).as_bytes()), Head::Other);
    }
}
