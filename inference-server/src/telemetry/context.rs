//! W3C Trace Context: what a client says of the trace that its request belongs to, in `traceparent` and `tracestate`.
//!
//! The crate's propagator takes what the specification forbids (ids that are too short, signs, a trailing dash), so the header
//! is parsed here; the state is the crate's.

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanId, TraceId, TraceState};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-` and 32 digits, `-` and 16 digits, `-` and 2 digits.
const LENGTH: usize = 55;

/// The span of a client that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether the client records it.
    pub is_sampled: bool,
    /// What tracing systems along the way noted.
    pub state: TraceState,
}

/// Reads the headers. A `traceparent` that is not valid, or there twice, is none; so is a `tracestate`, without harm to the other.
pub fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(PARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (trace, span, is_sampled) = parse(value.as_bytes())?;
    let states: Option<Vec<&str>> = headers.get_all(STATE).iter().map(|value| value.to_str().ok()).collect();
    let state = states.and_then(|states| states.join(",").parse().ok()).unwrap_or_default();
    Some(Parent { trace, span, is_sampled, state })
}

/// Versions after 00 may have more behind a further dash; ff is no version.
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (head, rest) = text.split_at_checked(LENGTH)?;
    let version = u8::try_from(hex(&head[..2])?).ok().filter(|version| *version != 0xff)?;
    if !rest.is_empty() && (version == 0 || rest[0] != b'-') {
        return None;
    }
    if [2, 35, 52].into_iter().any(|dash| head[dash] != b'-') {
        return None;
    }
    let trace = TraceId::from(hex(&head[3..35])?);
    let span = SpanId::from(u64::try_from(hex(&head[36..52])?).ok()?);
    let flags = hex(&head[53..])?;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags & 1 == 1))
}

/// Lower-case digits and nothing else.
fn hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn valid_parents_are_read() {
        for (text, is_sampled) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe", false),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be-like", true),
        ] {
            let parent = parent(&headers(&[("traceparent", text)])).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((parent.trace, parent.span), (TraceId::from(TRACE), SpanId::from(SPAN)), "{text}");
            assert_eq!(parent.is_sampled, is_sampled, "{text}");
        }
    }

    #[test]
    fn invalid_parents_are_ignored() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-001",
            "+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-B7AD6B7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0A",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-001",
        ] {
            assert_eq!(parent(&headers(&[("traceparent", text)])), None, "{text}");
        }
        let twice = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(parent(&headers(&[("traceparent", twice), ("traceparent", twice)])), None);
        assert_eq!(parent(&headers(&[("tracestate", "a=1")])), None, "a state belongs to a parent");
    }

    #[test]
    fn a_state_is_joined_and_a_bad_one_does_no_harm() {
        let good = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let state =
            |pairs: &[(&'static str, &str)]| parent(&headers(&[&[good], pairs].concat())).unwrap().state.header();
        assert_eq!(state(&[("tracestate", "a=1,b=2")]), "a=1,b=2");
        assert_eq!(state(&[("tracestate", "a=1"), ("tracestate", "b=2")]), "a=1,b=2");
        assert_eq!(state(&[]), "");
        for bad in ["no pair", "A=1", "a=\u{7f}"] {
            let value = http::HeaderValue::from_bytes(bad.as_bytes());
            if value.is_ok() {
                assert_eq!(state(&[("tracestate", bad)]), "", "{bad:?}");
            }
        }
    }
}
