//! The images that containers are made of: one layer with a static busybox, as an OCI archive. No registry is asked.
//! Importing it is `containerd`'s.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A shell, `httpd`, `nc`, `ping`, `wget` and the rest of busybox.
pub const BUSYBOX: &str = "localhost/busybox:rig";
/// What a pod's sandbox runs.
pub const PAUSE: &str = "localhost/pause:rig";

const APPLETS: [&str; 16] = [
    "cat", "echo", "env", "hostname", "httpd", "ip", "ls", "mkdir", "nc", "ping", "ping6", "route", "sh", "sleep",
    "true", "wget",
];

/// Writes both images to `archive`.
pub(crate) fn write_archive(archive: &Path, busybox: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let layout = Layout { root: folder.path().join("layout") };
    fs::create_dir_all(layout.root.join("blobs/sha256"))?;
    fs::write(layout.root.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    let layer = folder.path().join("layer.tar");
    tar(&layer, &root_filesystem(folder.path(), busybox)?)?;
    let layer = layout.add("application/vnd.oci.image.layer.v1.tar", &fs::read(&layer)?)?;
    let manifests = [
        layout.manifest(BUSYBOX, &layer, &json!({"Cmd": ["/bin/sh"]}))?,
        layout.manifest(PAUSE, &layer, &json!({"Entrypoint": ["/bin/sleep", "infinity"]}))?,
    ];
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(layout.root.join("index.json"), index.to_string())?;
    tar(archive, &layout.root)
}

fn root_filesystem(folder: &Path, busybox: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).with_context(|| format!("cannot read {}", busybox.display()))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    Ok(root)
}

/// An OCI image layout under construction.
struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Adds a blob and returns its descriptor.
    fn add(&self, kind: &str, content: &[u8]) -> Result<Value> {
        let unnamed = self.root.join("blob");
        fs::write(&unnamed, content)?;
        let output = Command::new("sha256sum").arg(&unnamed).output().context("cannot run sha256sum")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digest = text.split_whitespace().next().context("sha256sum printed nothing")?;
        fs::rename(&unnamed, self.root.join("blobs/sha256").join(digest))?;
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len()}))
    }

    /// Adds the image `name` and returns its descriptor for the index.
    fn manifest(&self, name: &str, layer: &Value, config: &Value) -> Result<Value> {
        let mut config = config.clone();
        config["Env"] = json!(["PATH=/bin"]);
        // As the first process of its namespace busybox would ignore SIGTERM, and each stop would take its full grace.
        config["StopSignal"] = json!("SIGKILL");
        let image = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": config,
            // A layer that is not compressed is its own diff.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let image = self.add("application/vnd.oci.image.config.v1+json", image.to_string().as_bytes())?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": image, "layers": [layer]});
        let mut descriptor = self.add(kind, manifest.to_string().as_bytes())?;
        descriptor["annotations"] = json!({"io.containerd.image.name": name});
        Ok(descriptor)
    }
}

fn tar(archive: &Path, folder: &Path) -> Result<()> {
    let output = Command::new("tar")
        .args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .output()
        .context("cannot run tar")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("tar of {} failed: {}", folder.display(), String::from_utf8_lossy(&output.stderr).trim())
}
