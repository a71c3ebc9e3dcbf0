//! Generates the messages of `proto/etcd.proto`, without protoc.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto/etcd.proto");
    let out = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/etcd.proto")
        .include("proto")
        .rust_protobuf()
        .run()
        .map_err(std::io::Error::other)?;
    let path = format!("{out}/etcd.rs");
    let text = std::fs::read_to_string(&path)?;
    // `include!` takes no inner attributes and no inner documentation.
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("#![") && !line.starts_with("//!")).collect();
    std::fs::write(path, kept.join("\n"))
}
