//! What workspaces say about themselves in a catalogue, kept for a moment.
//!
//! Anybody on the network may ask for the catalogue, as often as they like, and each workspace's description is in a
//! file of its own. So the files are read at most once a second, by one reader at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::registry::{WorkspaceId, WorkspaceRecord};
use crate::workspace::WorkspaceFile;

/// How old what is told may be.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// By workspace. One whose file cannot be used has none: its owner learns of it from the log when a peer opens it.
type All = Arc<HashMap<WorkspaceId, String>>;

/// The descriptions.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    /// Held while the files are read, across an `.await`: the others wait for what is read then.
    reading: Mutex<()>,
    /// Held for a clone or a replacement only, and never across an `.await`.
    read: StdMutex<Option<(Instant, All)>>,
}

impl Descriptions {
    /// Those of `workspaces`, no older than a second. `None` when the node is stopping.
    pub(super) async fn of(&self, workspaces: Vec<WorkspaceRecord>) -> Option<All> {
        if let Some(fresh) = self.fresh() {
            return Some(fresh);
        }
        let _reading = self.reading.lock().await;
        if let Some(fresh) = self.fresh() {
            return Some(fresh);
        }
        let began = Instant::now();
        let all: All = spawn_blocking(move || Arc::new(read(&workspaces))).await.ok()?;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, all.clone()));
        Some(all)
    }

    /// What is shared has changed.
    pub(super) fn forget(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fresh(&self) -> Option<All> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.as_ref().filter(|(began, _)| began.elapsed() < FRESH_FOR).map(|(_, all)| all.clone())
    }
}

fn read(workspaces: &[WorkspaceRecord]) -> HashMap<WorkspaceId, String> {
    let description = |record: &WorkspaceRecord| {
        let file = WorkspaceFile::load(&record.directory).ok()?;
        Some((record.id, file.description))
    };
    workspaces.iter().filter_map(description).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use super::*;

    fn workspace(directory: &Path) -> WorkspaceRecord {
        WorkspaceRecord {
            id: WorkspaceId(1),
            name: "demo".parse().unwrap(),
            directory: directory.into(),
            created: SystemTime::UNIX_EPOCH,
            share: None,
        }
    }

    #[tokio::test]
    async fn files_are_read_once_for_many_who_ask() {
        let directory = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let text = format!("schema: 1\nname: demo\ndescription: {text}\n");
            fs::write(directory.path().join("twinshare.yaml"), text).unwrap();
        };
        let descriptions = Descriptions::default();
        let told = async || {
            descriptions.of(vec![workspace(directory.path())]).await.unwrap().get(&WorkspaceId(1)).cloned()
        };
        write("one");
        let began = Instant::now();
        assert_eq!(told().await.as_deref(), Some("one"));
        write("two");
        let again = told().await;
        // Unless the second passed meanwhile.
        assert!(again.as_deref() == Some("one") || began.elapsed() >= FRESH_FOR, "{again:?}");
        descriptions.forget();
        assert_eq!(told().await.as_deref(), Some("two"));
        fs::remove_file(directory.path().join("twinshare.yaml")).unwrap();
        descriptions.forget();
        assert_eq!(told().await, None);
    }
}
