//! The policy files as they stand now, read again whenever something in their directories changes. What was good outlives
//! netd: the next one has it too, though the file is broken by then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch::{Receiver, Sender, channel};
use tracing::{info, warn};

use super::files::{PolicyFiles, sources};
use crate::directories;
use crate::whole_file::write_whole;

/// The way to the files; cheap to clone. The watching ends with the last handle.
#[derive(Debug, Clone)]
pub struct Watched {
    current: Receiver<Arc<PolicyFiles>>,
    paths: Arc<[PathBuf]>,
    kept: Arc<Path>,
    _watching: Arc<io::PipeWriter>,
}

impl Watched {
    /// Reads the directories, and again whenever something in them changes. `kept` is a file for the texts that are in force. The
    /// first reading is done when this returns.
    ///
    /// # Errors
    /// No thread or pipe is to be had.
    pub fn start(paths: Vec<PathBuf>, kept: PathBuf) -> io::Result<Self> {
        let (publish, current) = channel(Arc::new(PolicyFiles::remembered(recall(&kept))));
        let (all, kept) = (paths.as_slice().into(), kept.into());
        let watching = directories::watch("policies", paths, move |paths| read(paths, &publish))?;
        Ok(Self { current, paths: all, kept, _watching: Arc::new(watching) })
    }

    /// The files as they are at this moment, though nobody has noticed it yet, where `before` are in force.
    #[must_use]
    pub fn read_now(&self, before: &PolicyFiles) -> PolicyFiles {
        before.next(&sources(&self.paths, before))
    }

    /// What was in force when it was kept.
    #[must_use]
    pub fn kept(&self) -> PolicyFiles {
        PolicyFiles::remembered(recall(&self.kept))
    }

    /// Keeps what is in force now for the next netd: a file that is broken by then has this text still, and one that the kernel
    /// refuses.
    pub fn keep(&self, in_force: &PolicyFiles) {
        let texts = in_force.texts();
        if texts == recall(&self.kept) {
            return;
        }
        if let Err(error) = keep(&self.kept, &texts) {
            let path = self.kept.display();
            warn!(%path, %error, "cannot keep the policies' texts; a file that is broken at the next start has none");
        }
    }

    /// The files as they were last read.
    #[must_use]
    pub fn snapshot(&self) -> Arc<PolicyFiles> {
        Arc::clone(&self.current.borrow())
    }

    /// Follows the files: the receiver sees each change.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<Arc<PolicyFiles>> {
        self.current.clone()
    }
}

fn read(paths: &[PathBuf], publish: &Sender<Arc<PolicyFiles>>) {
    let before = Arc::clone(&publish.borrow());
    let next = before.next(&sources(paths, &before));
    if next == *before {
        return;
    }
    report(&before, &next);
    publish.send_replace(Arc::new(next));
}

fn report(before: &PolicyFiles, next: &PolicyFiles) {
    let (known, remain) = (before.by_name(), next.by_name());
    for file in next.files.iter().filter(|file| known.get(file.file.as_str()) != Some(file)) {
        match &file.error {
            Some(error) => warn!(file = file.file, error, "policy file not taken"),
            None => info!(file = file.file, policies = file.policies.len(), "policy file read"),
        }
    }
    for file in before.files.iter().filter(|file| !remain.contains_key(file.file.as_str())) {
        info!(file = file.file, "policy file gone");
    }
}

/// Nothing where there is nothing, or nothing that can be read: then the files themselves say all.
fn recall(kept: &Path) -> BTreeMap<String, String> {
    let text = match fs::read(kept) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            warn!(path = %kept.display(), %error, "cannot read the last policies' texts");
            return BTreeMap::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        warn!(path = %kept.display(), %error, "the last policies' texts are damaged, and left out");
        BTreeMap::new()
    })
}

fn keep(kept: &Path, texts: &BTreeMap<String, String>) -> io::Result<()> {
    write_whole(kept, &serde_json::to_vec(texts)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::Watched;

    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                          metadata: {name: one, namespace: shop}\nspec: {podSelector: {}}\n";

    #[tokio::test]
    async fn a_good_text_outlives_netd_and_a_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, kept) = (folder.path().join("policies"), folder.path().join("state/policies.json"));
        let start = || Watched::start(vec![directory.clone()], kept.clone()).unwrap();
        let watched = start();
        let mut seen = watched.subscribe();
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), POLICY).unwrap();
        let patience = Duration::from_secs(10);
        let found = seen.wait_for(|files| files.policies().count() == 1);
        drop(tokio::time::timeout(patience, found).await.unwrap().unwrap());
        watched.keep(&watched.snapshot());
        drop(watched);
        fs::write(directory.join("a.yaml"), "kind: [").unwrap();
        let again = start();
        assert_eq!(again.snapshot().policies().count(), 1);
        assert!(again.snapshot().files[0].error.is_some());
        // What is damaged is left out; what is gone is gone.
        fs::write(&kept, "{").unwrap();
        assert_eq!(start().snapshot().policies().count(), 0);
    }
}
