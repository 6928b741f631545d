//! Makes Rust of the `.proto` files, without protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["grpc_service.proto", "health.proto"], ["proto"])?;
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(folder.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // A tensor of a message is a slice of what was received, and not a copy.
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .codec_path("crate::grpc::Messages")
        .compile_fds(descriptors)?;
    Ok(())
}
