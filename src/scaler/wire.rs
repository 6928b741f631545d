//! The messages and the service of `proto/externalscaler.proto`, as the build makes them.

#![allow(missing_docs, reason = "the .proto file says what each message is")]
#![allow(clippy::all, clippy::pedantic, reason = "generated code")]

tonic::include_proto!("externalscaler");
