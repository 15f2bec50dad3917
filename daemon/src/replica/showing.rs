//! What the API shows of replicas: what is written down of them, and what their processes tell.

use std::collections::{BTreeSet, HashMap};

use twinshare_fs::replica::Receipt;

use super::control::Report;
use super::relocated::{self, Edited};
use super::settled::{self, Settled};
use super::supervisor::Reports;
use super::{Known, Replicas, blocking, load_roots};
use crate::api::replica_control::ReplicaError;
use crate::api::wire::{
    PeerRef, Replica, ReplicaKind, ReplicaReceipt, ReplicaRelocation, ReplicaRoot, ReplicaState,
    SettlingStage,
};

impl Replicas {
    pub(super) async fn show(&self, id: &str) -> Result<Replica, ReplicaError> {
        let reports = self.supervisor.reports(&self.find(id)?.spec.process).await;
        if report_of(id, &reports).is_none() {
            self.note_settled(id).await;
        }
        let known = self.find(id)?;
        let shown = self.document(&known, &reports);
        Ok(self.with_changed(self.with_edits(shown, known.roots).await).await)
    }

    /// The same with all that was edited in it.
    async fn with_edits(&self, mut shown: Replica, roots: Vec<ReplicaRoot>) -> Replica {
        let Some(relocation) = shown.receipt.as_mut().and_then(|receipt| receipt.relocation.as_mut()) else {
            return shown;
        };
        let state = self.home.replica(&shown.id);
        match blocking(move || relocated::document(&state, &roots)).await {
            Ok(Some(all)) => *relocation = all,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(replica = shown.id, %error, "what was edited in it cannot be told");
            }
        }
        shown
    }

    /// The same with what became of files that changed at the peer before it settled.
    async fn with_changed(&self, mut shown: Replica) -> Replica {
        if shown.state == ReplicaState::Settled {
            let state = self.home.replica(&shown.id);
            match blocking(move || settled::load_changed(&state)).await {
                Ok(changed) => shown.changed = changed,
                Err(error) => {
                    tracing::warn!(replica = shown.id, %error, "what changed at the peer cannot be told");
                }
            }
        }
        shown
    }

    pub(super) async fn show_all(&self, kind: ReplicaKind) -> Vec<Replica> {
        let mut all: Vec<Known> =
            self.known().values().filter(|known| known.spec.kind == kind).cloned().collect();
        all.sort_by(|a, b| (a.spec.created_at, &a.spec.id).cmp(&(b.spec.created_at, &b.spec.id)));
        let mut asking = tokio::task::JoinSet::new();
        let processes: BTreeSet<String> = all.iter().map(|known| known.spec.process.clone()).collect();
        for process in processes {
            let supervisor = self.supervisor.clone();
            asking.spawn(async move { (supervisor.reports(&process).await, process) });
        }
        let mut reports = HashMap::new();
        while let Some(asked) = asking.join_next().await {
            if let Ok((answer, process)) = asked {
                reports.insert(process, answer);
            }
        }
        let mut shown = Vec::new();
        for known in all {
            let reports = reports.get(&known.spec.process).unwrap_or(&Reports::Silent);
            if report_of(&known.spec.id, reports).is_none() {
                self.note_settled(&known.spec.id).await;
            }
            // One that has ended meanwhile is shown as it was.
            shown.push(self.document(&self.find(&known.spec.id).unwrap_or(known), reports));
        }
        shown
    }

    /// Learns whether a clone has settled, and where its companions are since then; true if it has.
    pub(super) async fn note_settled(&self, id: &str) -> bool {
        let Ok(Known { spec, settled, .. }) = self.find(id) else { return false };
        if settled.is_some() || spec.kind == ReplicaKind::View {
            return settled.is_some();
        }
        let (home, of) = (self.home.clone(), id.to_owned());
        let found = blocking(move || {
            let settled = settled::of(&home, &of);
            Ok(settled.map(|settled| (settled, load_roots(&home, &of))))
        });
        let Ok(Some((settled, roots))) = found.await else { return false };
        if let Some(known) = self.known().get_mut(id) {
            (known.settled, known.roots) = (Some(settled), roots);
        }
        true
    }

    /// What the API shows; `reports` are all of its process's.
    fn document(&self, known: &Known, reports: &Reports) -> Replica {
        let Known { spec, roots, settled } = known;
        let report = report_of(&spec.id, reports);
        let pid = self.supervisor.pid(&spec.process);
        let is_leaving = |report: &Report| {
            report.settling.as_ref().is_some_and(|settling| settling.stage == SettlingStage::Leaving)
        };
        let (state, detail) = match (report, self.supervisor.trouble(&spec.id)) {
            _ if settled.is_some() => (ReplicaState::Settled, None),
            (Some(report), _) if is_leaving(report) => (ReplicaState::Settling, None),
            (Some(_), _) if spec.plain => (ReplicaState::Hydrating, None),
            (Some(_), _) => (ReplicaState::Mounted, None),
            (None, _) if self.supervisor.is_starting(&spec.id) => (ReplicaState::Starting, None),
            (None, Some(trouble)) => (ReplicaState::Failed, Some(trouble)),
            (None, None) if matches!(reports, Reports::Silent) => {
                let number = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                (ReplicaState::Failed, Some(format!("its process{number} does not answer")))
            }
            // Its process has just ended, and what it has left is about to be looked at.
            (None, None) if matches!(reports, Reports::Absent) && self.supervisor.is_wanted(&spec.id) => {
                (ReplicaState::Starting, None)
            }
            (None, None) => (ReplicaState::Stopped, None),
        };
        let following = report.and_then(|report| report.following.clone());
        Replica {
            id: spec.id.clone(),
            kind: spec.kind,
            workspace: spec.workspace.clone(),
            peer: PeerRef {
                id: spec.peer.to_string(),
                short_id: spec.peer.short(),
                name: Some(spec.peer_name.clone()),
            },
            directory: spec.mount_point.to_string_lossy().into_owned(),
            state,
            detail,
            when_gone: spec.when_gone.to_string(),
            snapshot: Some(
                following.as_ref().map_or(&spec.snapshot, |following| &following.snapshot).clone(),
            ),
            pid,
            created_at: spec.created_at,
            following,
            roots: roots.clone(),
            progress: report.map(|report| report.progress.clone()),
            plain: spec.plain,
            was_there: false,
            left_out: report.and_then(|report| report.left_out.clone()),
            changed: report.and_then(|report| report.changed.clone()),
            reading: report.map(|report| report.reading.clone()).unwrap_or_default(),
            settling: report.and_then(|report| report.settling.clone()),
            receipt: settled.as_ref().map(receipt),
        }
    }
}

fn report_of<'r>(id: &str, reports: &'r Reports) -> Option<&'r Report> {
    match reports {
        Reports::Told(reports) => reports.iter().find(|report| report.id == id),
        Reports::Absent | Reports::Silent => None,
    }
}

fn receipt(settled: &Settled) -> ReplicaReceipt {
    let Receipt { directories, files, symlinks, bytes, companion_bytes } = settled.receipt;
    let relocation = settled.edited.map(|Edited { edited, left }| ReplicaRelocation {
        edited,
        left,
        ..ReplicaRelocation::default()
    });
    ReplicaReceipt {
        settled_at: settled.at,
        directories,
        files,
        symlinks,
        bytes,
        companion_bytes,
        relocation,
    }
}
