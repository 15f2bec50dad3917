//! How a served clone comes to its end: everything is here, nobody uses it, it is unmounted, and what stays is an
//! ordinary directory.
//!
//! That nobody uses it is the kernel's word alone: a plain unmount succeeds. It is tried when nobody is seen, at most
//! every [`TRY_EVERY`], and otherwise when one of those seen before has left.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use twinshare_fs::fuse::{HeldBy, Holder, MountedRoot};
use twinshare_fs::replica::status::OriginStatus;
use twinshare_fs::replica::status::{ChangedFiles, ChangedList};
use twinshare_fs::replica::{FinishError, Receipt, ReplicaStatus};

use super::changed::changed;
use super::{Failure, Served, blocking};
use crate::api::wire::{ReplicaKind, ReplicaSettling, SettlingStage};
use crate::chain::chain;
use crate::replica::pace::Pace;
use crate::replica::settled::{self, Settled, save_changed};

/// Between two looks at how much has come.
const PACE_EVERY: Duration = Duration::from_secs(1);

/// Between two tries at least: each looks at all processes.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Between two tries at most, while those who were seen stay: somebody else may have been in the way.
const TRY_AGAIN: Duration = Duration::from_secs(15);

/// Between two tries while somebody is in the way whom nobody sees.
const TRY_UNSEEN: Duration = Duration::from_secs(5);

/// Between two looks at those who were seen: some system calls.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After a failure of the disk.
const FAILED_AGAIN: Duration = Duration::from_secs(60);

/// For how long a run that was just planned keeps the mounts: it is about to use them.
const HELD_FOR: Duration = Duration::from_secs(5);

/// Files named of those that changed at the origin.
const CHANGED_SHOWN: usize = 5;

/// What a clone knows of its end.
#[derive(Debug)]
pub(super) struct Settling {
    stage: Mutex<Stage>,
    pace: Mutex<Pace>,
    /// Held by whoever finishes.
    finishing: tokio::sync::Mutex<()>,
    /// Held by whoever leaves, and by whoever has it wait. Until when it waits.
    leaving: tokio::sync::Mutex<Option<Instant>>,
    /// The tree has begun to move up: from here on it can only go on.
    has_begun: AtomicBool,
    /// Who was seen at the last try, each with the mount that it uses.
    seen: Mutex<Vec<(Holder, PathBuf)>>,
}

/// How far it is.
#[derive(Clone, Debug)]
struct Stage {
    stage: SettlingStage,
    users: Vec<String>,
    /// What is in the way.
    detail: Option<String>,
}

impl Settling {
    pub(super) fn new() -> Self {
        Self {
            stage: Mutex::new(Stage { stage: SettlingStage::Hydrating, users: Vec::new(), detail: None }),
            pace: Mutex::default(),
            finishing: tokio::sync::Mutex::default(),
            leaving: tokio::sync::Mutex::default(),
            has_begun: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// Waits for a try that is under way; none begins while the answer is held.
    pub(super) async fn wait(&self) -> tokio::sync::MutexGuard<'_, Option<Instant>> {
        self.leaving.lock().await
    }

    fn set(&self, stage: SettlingStage) {
        *lock(&self.stage) = Stage { stage, users: Vec::new(), detail: None };
    }

    fn set_failed(&self, failure: &Failure) {
        let (users, detail) = match failure {
            Failure::Busy(users) => (users.clone(), None),
            failure => (Vec::new(), Some(failure.to_string())),
        };
        *lock(&self.stage) = Stage { stage: SettlingStage::Complete, users, detail };
    }

    /// Bytes that come in a second, and the seconds that the rest of `status` takes.
    pub(super) fn pace(&self, status: &ReplicaStatus) -> (Option<u64>, Option<u64>) {
        let is_hydrating = lock(&self.stage).stage == SettlingStage::Hydrating;
        let pace = lock(&self.pace);
        let rest = status.bytes.total.saturating_sub(status.bytes.resident);
        let is_coming = status.counted && rest > 0 && is_hydrating;
        (pace.per_s().filter(|_| is_coming), pace.seconds_for(rest).filter(|_| is_coming))
    }
}

impl Served {
    /// What the node is told about how a clone comes to its end.
    pub(super) fn settling(&self, status: &ReplicaStatus) -> Option<ReplicaSettling> {
        if self.spec.kind != ReplicaKind::Clone {
            return None;
        }
        let Stage { stage, users, detail } = lock(&self.settling.stage).clone();
        let is_hydrating = stage == SettlingStage::Hydrating;
        let detail = detail.or_else(|| obstacle(status).filter(|_| is_hydrating));
        Some(ReplicaSettling { stage, users, detail, by_itself: !self.spec.keep_mounted })
    }

    /// True once its tree has begun to move up.
    pub(super) fn has_begun_to_settle(&self) -> bool {
        self.settling.has_begun.load(Relaxed)
    }

    /// Settles a clone as soon as it is complete and nobody uses it. Returns when the workspace is no longer mounted,
    /// for whatever reason.
    pub(super) async fn settle_until_ended(&self) {
        if self.spec.kind == ReplicaKind::Clone {
            tokio::select! {
                biased;
                () = self.ended() => return,
                () = self.hydrated() => {}
            }
            self.settling.set(SettlingStage::Complete);
            tracing::info!(replica = self.spec.id, "everything is here");
            if !self.spec.keep_mounted {
                self.keep_trying().await;
            }
        }
        self.ended().await;
    }

    async fn ended(&self) {
        let Some(workspace) = self.mounts.first() else {
            return self.left.cancelled().await;
        };
        let end = workspace.ended().await;
        tracing::info!(replica = self.spec.id, ?end, "its mount has ended");
    }

    async fn hydrated(&self) {
        let mut hydrated = std::pin::pin!(self.replica.hydrated());
        loop {
            tokio::select! {
                () = &mut hydrated => return,
                () = tokio::time::sleep(PACE_EVERY) => {}
            }
            let fetched = self.replica.status().fetched;
            let bytes = fetched.demand + fetched.read_ahead + fetched.bulk;
            lock(&self.settling.pace).note(Instant::now(), bytes);
        }
    }

    /// Tries until the workspace is no longer mounted. Nothing is ever left half way: only the pauses are cut short.
    async fn keep_trying(&self) {
        let mut said = String::new();
        loop {
            let tried = self.try_to_settle().await;
            let Err(failure) = tried else { return };
            if failure.to_string() != said {
                tracing::info!(replica = self.spec.id, %failure, "it does not settle yet");
                said = failure.to_string();
            }
            let pause = async {
                match failure {
                    Failure::Busy(_) => self.somebody_left().await,
                    _ => tokio::time::sleep(FAILED_AGAIN).await,
                }
            };
            tokio::select! {
                () = self.ended() => return,
                () = pause => {}
            }
        }
    }

    /// Returns when one of those seen before is not seen any more, or when it is time to try all the same.
    async fn somebody_left(&self) {
        let seen = lock(&self.settling.seen).clone();
        let tried = Instant::now();
        tokio::time::sleep(TRY_EVERY).await;
        let again = if seen.is_empty() { TRY_UNSEEN } else { TRY_AGAIN };
        while tried.elapsed() < again && seen.iter().all(|(holder, at)| is_still_there(holder, at)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tries once, now; whoever asked for it means it, so it is done also where it does not happen by itself.
    pub(in super::super) async fn settle_now(&self) -> Result<(), Failure> {
        if self.spec.kind != ReplicaKind::Clone {
            return Err(Failure::Other("a mount does not settle".into()));
        }
        let status = self.replica.status();
        if lock(&self.settling.stage).stage == SettlingStage::Hydrating {
            let (here, all) = (status.files.resident, status.files.total);
            let why = obstacle(&status).map(|why| format!("; {why}")).unwrap_or_default();
            return Err(Failure::Incomplete(format!("{here} of {all} files are here{why}")));
        }
        self.try_to_settle().await
    }

    /// Has the next try wait for a while: somebody is about to use the mounts. What is under way is waited for.
    pub(in super::super) async fn hold(&self) {
        *self.settling.wait().await = Some(Instant::now() + HELD_FOR);
    }

    /// One try. When it succeeds, the workspace is no longer mounted.
    async fn try_to_settle(&self) -> Result<(), Failure> {
        let tried = self.finish_and_leave().await;
        if let Err(failure) = &tried {
            self.settling.set_failed(failure);
        }
        tried
    }

    async fn finish_and_leave(&self) -> Result<(), Failure> {
        // It takes long for many files, so not for nothing; and somebody may come meanwhile.
        self.unused().await?;
        let receipt = self.finish().await?;
        let held = self.settling.wait().await;
        if self.is_unmounted().await {
            return Ok(());
        }
        if held.is_some_and(|until| Instant::now() < until) {
            lock(&self.settling.seen).clear();
            return Err(Failure::Busy(vec!["a run that has just begun".into()]));
        }
        self.unused().await?;
        self.settling.set(SettlingStage::Leaving);
        // While nobody is in it: what is made from here on would not lie where it is looked for first.
        let (replica, state) = (self.replica.clone(), self.home.replica(&self.spec.id));
        blocking(move || {
            let unmarked = |error| Failure::Other(format!("that it settles cannot be noted: {error}"));
            if let Some(changed) = changed(&replica.status().changed) {
                save_changed(&state, &changed).map_err(unmarked)?;
            }
            Settled::begun(receipt).save(&state).map_err(unmarked)?;
            replica.move_up().map_err(|error| Failure::Other(chain(&error)))
        })
        .await?;
        self.settling.has_begun.store(true, Relaxed);
        self.unmount_all().await
    }

    /// Makes ordinary trees of it. Anew each time: it may have been changed since.
    async fn finish(&self) -> Result<Receipt, Failure> {
        let _one_at_a_time = self.settling.finishing.lock().await;
        let replica = self.replica.clone();
        blocking(move || {
            replica.finish().map_err(|error| match error {
                FinishError::Incomplete => Failure::Incomplete(error.to_string()),
                FinishError::Manifest
                | FinishError::Names(_)
                | FinishError::Disk { .. }
                | FinishError::Foreign { .. } => Failure::Other(chain(&error)),
            })
        })
        .await
    }

    /// Checks that nobody is seen in any of its mounts, and remembers who is.
    async fn unused(&self) -> Result<(), Failure> {
        let mounts = self.mounts.clone();
        let look = move || {
            let seen_in = |mount: &MountedRoot| {
                let at = mount.at().to_owned();
                mount.users().into_iter().map(move |holder| (holder, at.clone())).collect::<Vec<_>>()
            };
            Ok((mounts.iter().flat_map(|mount| seen_in(mount)).collect::<Vec<_>>(), mounts))
        };
        let (seen, mounts) = blocking(look).await?;
        let workspace = mounts.first().map(|mount| mount.at().to_owned()).unwrap_or_default();
        let users = seen.iter().map(|(holder, at)| described(holder, at, &workspace)).collect::<Vec<_>>();
        *lock(&self.settling.seen) = seen;
        if users.is_empty() { Ok(()) } else { Err(Failure::Busy(users)) }
    }

    /// Takes the last step, once nothing is mounted and nothing written any more.
    pub(super) async fn conclude(&self) {
        let (home, spec) = (self.home.clone(), self.spec.clone());
        if let Err(failure) = blocking(move || settled::conclude(&home, &spec)).await {
            // The node finds the mark, and has it tried again.
            tracing::warn!(replica = self.spec.id, %failure, "it is not an ordinary directory yet");
        }
    }
}

fn described(holder: &Holder, at: &Path, workspace: &Path) -> String {
    match at == workspace {
        true => holder.to_string(),
        false => format!("{holder}, of the companion at {}", at.display()),
    }
}

/// False once a process seen in a mount has ended, or left it as far as that can be told at once.
fn is_still_there(holder: &Holder, at: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{}", holder.pid));
    match holder.by {
        HeldBy::WorkingDirectory => {
            std::fs::read_link(process.join("cwd")).is_ok_and(|directory| directory.starts_with(at))
        }
        HeldBy::RootDirectory | HeldBy::Program | HeldBy::OpenFile | HeldBy::MappedFile | HeldBy::Copy => {
            process.exists()
        }
    }
}

/// What keeps a clone from becoming complete.
fn obstacle(status: &ReplicaStatus) -> Option<String> {
    if let Some(why) = &status.disk_refuses {
        return Some(format!("the disk takes nothing more: {why}"));
    }
    if let Some(bytes) = status.short_of_space {
        let mib = bytes >> 20;
        return Some(format!("its disk is almost full: it goes on when more than {mib} MiB are free there"));
    }
    match &status.origin {
        OriginStatus::SnapshotGone => {
            return Some("the peer no longer serves this snapshot: what is missing will not come".into());
        }
        OriginStatus::Gone { why, .. } => {
            return Some(format!("the peer does not answer ({why}); it goes on when it is back"));
        }
        OriginStatus::Reachable => {}
    }
    let ChangedFiles { conflicts, unsettled, waiting, .. } = &status.changed;
    let paths = |list: &ChangedList| list.listed.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    let said = [
        (conflicts.total, paths(conflicts), "changed both here and at the peer"),
        (unsettled.total, paths(unsettled), "changed at the peer and cannot be had now"),
        (waiting.total, paths(waiting), "changed at the peer and will be taken anew"),
        (status.stale_total, status.stale.clone(), "changed at the peer before they were here"),
    ];
    let said = said.into_iter().filter(|(total, ..)| *total > 0).map(|(total, paths, what)| {
        let named = paths.into_iter().take(CHANGED_SHOWN).collect::<Vec<_>>().join(", ");
        format!("{total} {} {what}: {named}", if total == 1 { "file" } else { "files" })
    });
    Some(said.collect::<Vec<_>>().join("; ")).filter(|said| !said.is_empty())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
