//! Generates the gRPC messages and services from `proto/`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    {
        let files = ["holdfast/v1/common.proto", "holdfast/v1/feed.proto", "holdfast/v1/peer.proto"];
        let descriptors = protox::compile(files, ["proto"])?;
        // Payloads are shared between streams: `Bytes` makes a copy of one cheap.
        tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    }
    Ok(())
}
