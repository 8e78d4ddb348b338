//! Compiles `proto/` with protox (a protobuf compiler in Rust), so that no `protoc` has to be installed.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script runs on the developer's machine, not in a node: it reads Cargo's variables and writes OUT_DIR"
)]

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const FILES: [&str; 4] = ["kontiki/v1/kv.proto", "kontiki/v1/cluster.proto", "kontiki/v1/peer.proto", "kontiki/v1/error.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Asked when it runs, not when it is compiled: a script compiled in one checkout may be run for another that shares its cache.
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors =
        protox::Compiler::new([&root])?.include_source_info(true).include_imports(true).open_files(FILES)?.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("kontiki.bin"), descriptors.encode_to_vec())?;
    // Bytes fields share the message's buffer: a value is not copied on its way in (DESIGN law 10). Ordered maps: the same message
    // is always the same bytes.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
