//! The cache of all views from the node's side: what it holds, what is kept in it, and what is removed from it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use super::control::{
    self, ANSWER_WITHIN, Answer, CacheAnswer, CachePruned, CacheReport, CacheRequest, Failure, PinReport,
    PinnedPath, Request,
};
use super::spec::VIEWS;
use super::{Replicas, blocking, from_failure, place};
use crate::api::replica_control::ReplicaError;
use crate::home::Home;

/// How long a process evicts before it says that there is more.
pub(super) const PRUNE_FOR: Duration = Duration::from_secs(10);

/// How long the answer to an order may take that goes through all files of a view.
const CACHE_WITHIN: Duration = Duration::from_secs(20);

impl Replicas {
    /// What the views' process tells of its cache; nothing where none runs.
    pub(super) async fn cache_report(&self) -> Option<CacheReport> {
        let request = Request::Cache(CacheRequest::Status);
        match control::ask(&self.home, VIEWS, &request, ANSWER_WITHIN).await {
            Ok(Answer::Cache(CacheAnswer::Status(report))) => Some(report),
            Ok(_) | Err(_) => None,
        }
    }

    /// Evicts, and removes what views left that are not there any more.
    pub(super) async fn prune_cache(
        &self,
        unused_s: u64,
    ) -> Result<(CachePruned, CachePruned), ReplicaError> {
        let request = Request::Cache(CacheRequest::Prune { unused_s });
        let none = CachePruned { files: 0, bytes: 0, is_done: true };
        let pruned = match control::ask(&self.home, VIEWS, &request, CACHE_WITHIN).await {
            Ok(Answer::Cache(CacheAnswer::Pruned(pruned))) => pruned,
            Ok(Answer::Failed(failure)) => return Err(super::failed(failure.to_string())),
            Ok(_) => return Err(super::failed("the views' process answered something else".into())),
            // Without views there is nothing to evict.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                none
            }
            Err(error) => return Err(super::failed(format!("the views' process does not answer: {error}"))),
        };
        let home = self.home.clone();
        let left = blocking(move || Ok(remove_leftovers(&home))).await;
        Ok((pruned, left.unwrap_or(none)))
    }

    /// How far the pins of a view are.
    pub(super) async fn pins_of(&self, id: &str) -> Result<Vec<PinReport>, ReplicaError> {
        let pins = self.ask_about_pins(id, CacheRequest::Pins { id: id.to_owned() }).await?;
        Ok(pins.unwrap_or_default())
    }

    /// Pins a path of a view; nothing where there is no such file.
    pub(super) async fn pin_path(
        &self,
        id: &str,
        pin: PinnedPath,
    ) -> Result<Option<Vec<PinReport>>, ReplicaError> {
        self.ask_about_pins(id, CacheRequest::Pin { id: id.to_owned(), pin }).await
    }

    /// Removes a pin of a view; false where there is no such pin.
    pub(super) async fn unpin_path(&self, id: &str, pin: PinnedPath) -> Result<bool, ReplicaError> {
        let pins = self.ask_about_pins(id, CacheRequest::Unpin { id: id.to_owned(), pin }).await?;
        Ok(pins.is_some())
    }

    async fn ask_about_pins(
        &self,
        id: &str,
        request: CacheRequest,
    ) -> Result<Option<Vec<PinReport>>, ReplicaError> {
        let spec = self.find(id)?.spec;
        let asked = control::ask(&self.home, &spec.process, &Request::Cache(request), CACHE_WITHIN).await;
        let other = |what: String| Err(super::failed(format!("the views' process {what}")));
        match asked {
            Ok(Answer::Cache(CacheAnswer::Pins(pins))) => Ok(pins),
            Ok(Answer::Cache(CacheAnswer::NoRoom(why))) => Err(ReplicaError::NoRoom(why)),
            Ok(Answer::Failed(failure @ Failure::Other(_))) => Err(super::failed(failure.to_string())),
            Ok(Answer::Failed(failure)) => Err(from_failure(failure, &spec)),
            Ok(_) => other("answered something else".into()),
            Err(error) => other(format!("does not answer: {error}")),
        }
    }
}

/// Removes the data of views of which the node knows nothing any more. What it knows of a view is written down before
/// there is any data, and removed after it.
fn remove_leftovers(home: &Home) -> CachePruned {
    let mut removed = CachePruned { files: 0, bytes: 0, is_done: true };
    let Ok(views) = fs::read_dir(place::views_data(home)) else { return removed };
    for view in views.flatten() {
        let is_known = view.file_name().to_str().is_none_or(|id| home.replica(id).exists());
        if is_known {
            continue;
        }
        let mut had = (0, 0);
        measure(&view.path(), &mut had);
        match fs::remove_dir_all(view.path()) {
            Ok(()) => (removed.files, removed.bytes) = (removed.files + had.0, removed.bytes + had.1),
            Err(error) => {
                tracing::warn!(path = %view.path().display(), %error, "what a view left cannot be removed");
            }
        }
    }
    removed
}

fn measure(directory: &Path, (files, bytes): &mut (u64, u64)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(of) if of.is_dir() => {
                let mut below = (0, 0);
                measure(&entry.path(), &mut below);
                (*files, *bytes) = (*files + below.0, *bytes + below.1);
            }
            Ok(of) => (*files, *bytes) = (*files + 1, *bytes + of.blocks() * 512),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_views_left_goes_and_what_they_have_stays() {
        let at = tempfile::tempdir().unwrap();
        let home = Home::isolated(at.path());
        for id in ["known", "left"] {
            fs::create_dir_all(place::view_data(&home, id).join("content/0")).unwrap();
            fs::write(place::view_data(&home, id).join("content/0/1"), vec![7; 10_000]).unwrap();
        }
        fs::create_dir_all(home.replica("known")).unwrap();
        let removed = remove_leftovers(&home);
        assert!(removed.files == 1 && removed.bytes >= 10_000, "{removed:?}");
        assert!(place::view_data(&home, "known").exists() && !place::view_data(&home, "left").exists());
        assert_eq!(remove_leftovers(&home), CachePruned { files: 0, bytes: 0, is_done: true });
    }
}
