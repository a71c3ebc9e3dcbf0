//! Generates messages and the service from `proto/netd.proto`, without protoc.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto/netd.proto");
    let out = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/netd.proto")
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize { async_all: true, ..Default::default() })
        .run()
        .map_err(std::io::Error::other)?;
    for file in ["netd.rs", "netd_ttrpc.rs"] {
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
