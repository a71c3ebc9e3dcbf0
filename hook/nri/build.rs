//! Generates the messages of `proto/`, without protoc.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/nri.proto", "proto/ttrpc.proto"])
        .include("proto")
        .rust_protobuf()
        .run()?;
    for file in ["nri.rs", "ttrpc.rs"] {
        include_ready(&format!("{out}/{file}"))?;
    }
    Ok(())
}

/// `include!` takes no inner attributes and no inner documentation.
fn include_ready(path: &str) -> std::io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("#![") && !line.starts_with("//!")).collect();
    std::fs::write(path, kept.join("\n"))
}
