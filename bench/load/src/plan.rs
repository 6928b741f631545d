//! What is sent, where to, how fast, and what has to come back: a JSON file, and the bodies beside it.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::Deserialize;

/// Bounds on what can be asked for.
const MOST_PER_SECOND: f64 = 20_000.0;
const LONGEST_SECONDS: f64 = 300.0;
const MOST_IN_FLIGHT: usize = 256;
const LARGEST_BODY: u64 = 256 << 20;

/// The file. Field names are in camelCase.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// Of a server on this machine.
    address: SocketAddr,
    protocol: Protocol,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Sent in turn, so that an answer that belongs to another request is noticed.
    requests: Vec<Pair>,
    answer: Form,
    /// The most that a value may be away from the expected one.
    tolerance: f32,
    pace: Pace,
    /// How many connections the requests share. HTTP/1.1 takes one for each request in flight, and ignores it.
    #[serde(default = "one")]
    connections: usize,
    /// How long requests are sent; those in flight are waited for.
    seconds: f64,
    /// The same before, not measured.
    #[serde(default)]
    warm_up_seconds: f64,
}

fn one() -> usize {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    body: PathBuf,
    /// The values of the answer's first output, as little-endian 32-bit floats.
    expected: PathBuf,
}

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1, connections that are kept.
    Http1,
    /// A unary call over HTTP/2 without TLS; bodies are protobuf messages.
    Grpc,
}

/// Where an answer has its values.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub enum Form {
    /// The body is the values.
    Float32,
    /// KServe v2's binary data: a JSON header, whose length a header field has, then the values.
    V2Binary,
    /// Numbers in JSON, in lists however deep, at this JSON pointer.
    Json(String),
    /// `raw_output_contents` of a `ModelInferResponse`.
    Grpc,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Pace {
    /// So many are in flight at any time.
    Closed {
        /// How many.
        in_flight: usize,
    },
    /// At equal distances, whether or not earlier ones are answered, as long as fewer than so many are in flight; one that is
    /// due waits then, and its latency counts from when it was due.
    Open {
        /// Requests per second.
        per_second: f64,
        /// The most at a time.
        in_flight: usize,
    },
}

impl Pace {
    /// The most requests at a time.
    pub fn in_flight(self) -> usize {
        match self {
            Self::Closed { in_flight } | Self::Open { in_flight, .. } => in_flight,
        }
    }
}

/// One request with the answer that it has to have.
#[derive(Debug)]
pub struct Sample {
    /// What is sent.
    pub body: Bytes,
    /// What has to come back.
    pub expected: Vec<f32>,
}

/// A plan that may be carried out.
#[derive(Debug)]
pub struct Plan {
    /// A server on this machine.
    pub address: SocketAddr,
    /// How requests travel.
    pub protocol: Protocol,
    /// Of every request.
    pub uri: Uri,
    /// Of every request.
    pub headers: HeaderMap,
    /// Sent in turn.
    pub samples: Vec<Sample>,
    /// Where answers have their values.
    pub answer: Form,
    /// The most that a value may be away.
    pub tolerance: f32,
    /// When requests are sent.
    pub pace: Pace,
    /// Shared by gRPC's calls.
    pub connections: usize,
    /// Of sending.
    pub time: Duration,
    /// Of sending before that.
    pub warm_up: Duration,
}

/// Why a plan is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file can't be read.
    #[error("{0} can't be read: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// The plan's file is not one.
    #[error("the plan is not as it should be: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Load goes to this machine alone.
    #[error("{0} is not on this machine: the address must be a loopback address, as 127.0.0.1:8000")]
    NotLoopback(SocketAddr),
    /// A number is beyond its bounds.
    #[error("{0} is not allowed: {1}")]
    OutOfBounds(&'static str, String),
}

impl File {
    /// Checks the bounds and reads the bodies.
    ///
    /// # Errors
    /// Something is beyond its bounds, or a file is not there.
    pub fn load(self) -> Result<Plan, PlanError> {
        self.check()?;
        let mut samples = Vec::with_capacity(self.requests.len());
        for pair in &self.requests {
            let (body, expected) = (read(&pair.body)?, read(&pair.expected)?);
            if expected.is_empty() || !expected.len().is_multiple_of(4) {
                return Err(PlanError::OutOfBounds("expected", "it must be 32-bit floats, at least one".to_owned()));
            }
            samples.push(Sample {
                body: if self.protocol == Protocol::Grpc { framed(&body) } else { body.into() },
                expected: expected.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            });
        }
        Ok(Plan {
            address: self.address,
            protocol: self.protocol,
            uri: self.uri()?,
            headers: self.headers()?,
            samples,
            answer: self.answer,
            tolerance: self.tolerance,
            pace: self.pace,
            connections: self.connections,
            time: Duration::from_secs_f64(self.seconds),
            warm_up: Duration::from_secs_f64(self.warm_up_seconds),
        })
    }

    /// HTTP/1.1 sends the path alone, and the address in a header field.
    fn uri(&self) -> Result<Uri, PlanError> {
        let uri = match self.protocol {
            Protocol::Http1 => self.path.clone(),
            Protocol::Grpc => format!("http://{}{}", self.address, self.path),
        };
        uri.parse().map_err(|error: http::uri::InvalidUri| PlanError::OutOfBounds("path", error.to_string()))
    }

    fn headers(&self) -> Result<HeaderMap, PlanError> {
        let mut headers = HeaderMap::new();
        let own: &[(&str, &str)] = match self.protocol {
            Protocol::Http1 => &[("host", &self.address.to_string())],
            Protocol::Grpc => &[("content-type", "application/grpc"), ("te", "trailers")],
        };
        let given = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.iter().copied().chain(given) {
            let bad = || PlanError::OutOfBounds("headers", format!("{name}: {value} is no field of HTTP"));
            let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) else {
                return Err(bad());
            };
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn check(&self) -> Result<(), PlanError> {
        let outside = |name, value: String| Err(PlanError::OutOfBounds(name, value));
        if !self.address.ip().is_loopback() {
            return Err(PlanError::NotLoopback(self.address));
        }
        if self.requests.is_empty() {
            return outside("requests", "there are none".to_owned());
        }
        if !(1..=MOST_IN_FLIGHT).contains(&self.pace.in_flight()) {
            return outside("inFlight", format!("{} is not within 1 and {MOST_IN_FLIGHT}", self.pace.in_flight()));
        }
        if !(1..=MOST_IN_FLIGHT).contains(&self.connections) {
            return outside("connections", format!("{} is not within 1 and {MOST_IN_FLIGHT}", self.connections));
        }
        if let Pace::Open { per_second, .. } = self.pace
            && !(per_second > 0.0 && per_second <= MOST_PER_SECOND)
        {
            return outside("perSecond", format!("{per_second} is not above 0 and at most {MOST_PER_SECOND}"));
        }
        if !(self.seconds > 0.0 && self.seconds <= LONGEST_SECONDS) {
            return outside("seconds", format!("{} is not above 0 and at most {LONGEST_SECONDS}", self.seconds));
        }
        if !(0.0..=LONGEST_SECONDS).contains(&self.warm_up_seconds) {
            return outside("warmUpSeconds", format!("{} is not within 0 and {LONGEST_SECONDS}", self.warm_up_seconds));
        }
        Ok(())
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, PlanError> {
    let unreadable = |error| PlanError::Unreadable(path.clone(), error);
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > LARGEST_BODY {
        return Err(PlanError::OutOfBounds(
            "body",
            format!("{} has {bytes} bytes, more than {LARGEST_BODY}", path.display()),
        ));
    }
    fs::read(path).map_err(unreadable)
}

/// A message as gRPC sends it: not compressed, its length, itself.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(change: impl Fn(&mut Value)) -> Result<Plan, PlanError> {
        let values = std::env::var("CARGO_MANIFEST_DIR").unwrap() + "/Cargo.toml";
        let mut file = json!({
            "address": "127.0.0.1:8000", "protocol": "Grpc", "path": "/x", "answer": "Grpc", "tolerance": 0.1,
            "requests": [], "pace": {"Open": {"perSecond": 10, "inFlight": 2}}, "seconds": 1,
        });
        change(&mut file);
        let mut file: File = serde_json::from_value(file)?;
        // Any file will do as a body; what is expected must be a multiple of four bytes.
        let folder = std::env::temp_dir().join(format!("flotilla-load-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let expected = folder.join("expected");
        fs::write(&expected, 1.5_f32.to_le_bytes()).unwrap();
        if file.path == "/x" {
            file.requests = vec![Pair { body: values.into(), expected }];
        }
        file.load()
    }

    #[test]
    fn a_message_is_framed_and_values_are_read() {
        let plan = plan(|_| {}).unwrap();
        let body = &plan.samples[0].body;
        assert_eq!(body[0], 0);
        assert_eq!(u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize, body.len() - 5);
        assert_eq!(plan.samples[0].expected, [1.5]);
        assert_eq!((plan.connections, plan.warm_up), (1, Duration::ZERO));
    }

    #[test]
    fn what_is_beyond_the_bounds_is_refused_by_name() {
        for (change, message) in [
            (("address", json!("192.0.2.1:80")), "192.0.2.1:80 is not on this machine"),
            (("path", json!("/none")), "requests is not allowed: there are none"),
            (("pace", json!({"Closed": {"inFlight": 0}})), "inFlight is not allowed: 0"),
            (("pace", json!({"Open": {"perSecond": 1e9, "inFlight": 1}})), "perSecond is not allowed"),
            (("connections", json!(1000)), "connections is not allowed: 1000"),
            (("seconds", json!(0)), "seconds is not allowed: 0"),
            (("seconds", json!(1e9)), "seconds is not allowed"),
            (("warmUpSeconds", json!(-1)), "warmUpSeconds is not allowed: -1"),
            (("headers", json!({"a b": "c"})), "a b: c is no field of HTTP"),
            (("answer", json!("Xml")), "unknown variant `Xml`"),
            (("nonsense", json!(1)), "unknown field `nonsense`"),
        ] {
            let error = plan(|file| file[change.0] = change.1.clone()).unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} should have {message:?}");
        }
    }
}
