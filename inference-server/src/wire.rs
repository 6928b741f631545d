//! The messages and services of the `.proto` files in `proto/`, as the build makes them.

#![allow(missing_docs, reason = "the .proto files say what each message is")]
#![allow(clippy::all, clippy::pedantic, reason = "generated code")]

/// KServe v2 and Triton's model configuration.
pub mod inference {
    tonic::include_proto!("inference");
}

/// The standard health service.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The descriptors of all of them: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
