//! What the API shows of replicas: what is written down of them, and what their processes tell.

use std::collections::{BTreeSet, HashMap};

use super::supervisor::Reports;
use super::{Known, Replicas};
use crate::api::replica_control::ReplicaError;
use crate::api::wire::{PeerRef, Replica, ReplicaKind, ReplicaState};

impl Replicas {
    pub(super) async fn show(&self, id: &str) -> Result<Replica, ReplicaError> {
        let known = self.find(id)?;
        let reports = self.supervisor.reports(&known.spec.process).await;
        Ok(self.document(&known, &reports))
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
        let of = |known: &Known| reports.get(&known.spec.process).unwrap_or(&Reports::Silent);
        all.iter().map(|known| self.document(known, of(known))).collect()
    }

    /// What the API shows; `reports` are all of its process's.
    fn document(&self, known: &Known, reports: &Reports) -> Replica {
        let Known { spec, roots } = known;
        let report = match reports {
            Reports::Told(reports) => reports.iter().find(|report| report.id == spec.id),
            Reports::Absent | Reports::Silent => None,
        };
        let pid = self.supervisor.pid(&spec.process);
        let (state, detail) = match (report, self.supervisor.trouble(&spec.id)) {
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
            snapshot: Some(spec.snapshot.clone()),
            pid,
            created_at: spec.created_at,
            roots: roots.clone(),
            progress: report.map(|report| report.progress.clone()),
            was_there: false,
            left_out: report.and_then(|report| report.left_out.clone()),
        }
    }
}
