//! Compiles the .proto files in pure Rust and writes the descriptor set that reflection serves.

use std::path::PathBuf;

use prost::Message as _;

const ROOT: &str = "proto";
const FILES: [&str; 5] = [
    "inference/grpc_service.proto",
    "shoal/v1/inference.proto",
    "shoal/v1/admin.proto",
    "shoal/link/v1/link.proto",
    "externalscaler/externalscaler.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    // With everything imported, so that reflection can resolve every type.
    let descriptors = protox::compile(FILES, [ROOT])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.binpb"), descriptors.encode_to_vec())?;
    // What clients send is read with a bound of its own; the link bounds its messages itself.
    let generate = |codec: &str, left_out: &[&str]| {
        let mut set = descriptors.clone();
        set.file.retain(|file| !left_out.contains(&file.package()));
        tonic_prost_build::configure().bytes(".").codec_path(codec).compile_fds(set)
    };
    generate("crate::codec::BoundedCodec", &["shoal.link.v1"])?;
    generate("tonic_prost::ProstCodec", &["inference", "shoal.v1", "externalscaler"])?;
    Ok(())
}
