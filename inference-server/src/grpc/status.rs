//! Errors as gRPC has them: a code that a client can act on, the sentence, and when to try again.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::{engine::InferError, http::error::ApiError, repository::ModelError};

/// How clients with a retry policy are told to wait.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// `google.rpc.Status`, which carries the details of an error.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    all: Vec<Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// The code that means what an HTTP status means.
pub fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        status if status.is_server_error() => Code::Internal,
        _ => Code::InvalidArgument,
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let code = code(error.status);
        match error.retry_after() {
            Some(delay) => with_retry(code, &error.message, delay),
            None => Self::new(code, error.message),
        }
    }
}

impl From<InferError> for Status {
    fn from(error: InferError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<ModelError> for Status {
    fn from(error: ModelError) -> Self {
        ApiError::from(error).into()
    }
}

fn with_retry(code: Code, message: &str, delay: Duration) -> Status {
    let retry = RetryInfo { retry_delay: prost_types::Duration::try_from(delay).ok() };
    let details = Details {
        code: code.into(),
        message: message.to_owned(),
        all: vec![Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: retry.encode_to_vec(),
        }],
    };
    let mut status = Status::with_details(code, message, Bytes::from(details.encode_to_vec()));
    if let Ok(value) = delay.as_millis().to_string().parse() {
        status.metadata_mut().insert(PUSHBACK, value);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let status = Status::from(InferError::QueueFull { retry_after: Duration::from_millis(1500) });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "1500");
        let details = Details::decode(status.details()).unwrap();
        let retry = RetryInfo::decode(details.all[0].value.as_slice()).unwrap();
        assert_eq!(retry.retry_delay, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
    }

    #[test]
    fn codes_are_triton_s() {
        for (error, code) in [
            (InferError::Invalid("x".to_owned()), Code::InvalidArgument),
            (InferError::TooLarge("x".to_owned()), Code::InvalidArgument),
            (InferError::Timeout, Code::Unavailable),
            (InferError::Draining, Code::Unavailable),
            (InferError::Backend("x".to_owned()), Code::Internal),
        ] {
            assert_eq!(Status::from(error.clone()).code(), code, "{error}");
        }
    }
}
