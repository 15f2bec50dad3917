//! Work that outlasts a request: started by one, watched and cancelled by others.
//!
//! The table is bounded on both sides: [`RUNNING_MAX`] operations at a time (the next is refused, since each holds
//! a process and a connection), and of the finished ones the [`KEPT_MAX`] latest for [`KEPT_FOR`], long enough for
//! whoever asked to come back for the result.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::ApiError;
use crate::api::wire::{
    Operation, OperationKind, OperationResult, OperationState, Problem, Progress, ProgressUnit, UnixTime,
};

/// Operations running at a time.
pub const RUNNING_MAX: usize = 64;

/// Finished operations kept.
pub const KEPT_MAX: usize = 256;

/// How long a finished operation is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(3600);

/// All operations of a node. Cheap to clone; clones share the table.
///
/// One lock, held for map operations only and never across an `.await`.
#[derive(Clone, Debug)]
pub struct Operations {
    table: Arc<Mutex<Table>>,
    stop: CancellationToken,
}

/// So many operations are running that no other is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{RUNNING_MAX} operations are running already")]
pub struct TableFull;

#[derive(Debug)]
struct Table {
    /// Keeps ids of different lives of a node apart.
    prefix: String,
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    shown: watch::Sender<Operation>,
    cancel: CancellationToken,
    finished: Option<Instant>,
}

/// An operation as the work behind it sees it: it reports here and hears of its cancellation.
#[derive(Clone, Debug)]
pub struct Task {
    shown: watch::Sender<Operation>,
    cancel: CancellationToken,
}

impl Operations {
    /// An empty table. `prefix` starts every id and must differ between two lives of one node.
    pub fn new(prefix: impl Into<String>) -> Self {
        let table = Table { prefix: prefix.into(), next: 1, entries: BTreeMap::new() };
        Self { table: Arc::new(Mutex::new(table)), stop: CancellationToken::new() }
    }

    /// Starts `work` in the background and returns the operation as it is then. Within a Tokio runtime only.
    ///
    /// `work` ends early with any error once [`Task::cancelled`]; a panic in it becomes a failed operation.
    pub fn start<W, F>(&self, kind: OperationKind, target: String, work: W) -> Result<Operation, TableFull>
    where
        W: FnOnce(Task) -> F,
        F: Future<Output = Result<OperationResult, Box<Problem>>> + Send + 'static,
    {
        let (number, task) = self.enter(kind, target)?;
        let begun = task.shown.borrow().clone();
        let work = tokio::spawn(work(task.clone()));
        let table = self.table.clone();
        tokio::spawn(async move {
            let outcome = work.await.unwrap_or_else(|died| Err(died_problem(&died)));
            task.finish(outcome);
            if let Some(entry) = lock(&table).entries.get_mut(&number) {
                entry.finished = Some(Instant::now());
            }
        });
        Ok(begun)
    }

    fn enter(&self, kind: OperationKind, target: String) -> Result<(u64, Task), TableFull> {
        let mut table = lock(&self.table);
        table.forget_old(Instant::now());
        if table.entries.values().filter(|entry| entry.finished.is_none()).count() >= RUNNING_MAX {
            return Err(TableFull);
        }
        let number = table.next;
        table.next += 1;
        let operation = Operation {
            id: format!("{}-{number}", table.prefix),
            kind,
            target,
            state: OperationState::Running,
            revision: 0,
            progress: Progress::default(),
            result: None,
            problem: None,
            created_at: UnixTime::now(),
            finished_at: None,
        };
        let task = Task { shown: watch::Sender::new(operation), cancel: self.stop.child_token() };
        let entry = Entry { shown: task.shown.clone(), cancel: task.cancel.clone(), finished: None };
        table.entries.insert(number, entry);
        Ok((number, task))
    }

    /// All operations, oldest first.
    pub fn list(&self) -> Vec<Operation> {
        let mut table = lock(&self.table);
        table.forget_old(Instant::now());
        table.entries.values().map(|entry| entry.shown.borrow().clone()).collect()
    }

    /// The operation as it is now.
    pub fn find(&self, id: &str) -> Option<Operation> {
        self.watch(id).map(|shown| shown.borrow().clone())
    }

    /// The operation once it has a revision above `since` (without `since`: once it is final), or as it is after
    /// `wait`. Cancel-safe.
    pub async fn wait(&self, id: &str, since: Option<u64>, wait: Duration) -> Option<Operation> {
        let mut shown = self.watch(id)?;
        let news = |now: &Operation| match since {
            Some(since) => now.revision > since || now.state.is_final(),
            None => now.state.is_final(),
        };
        // Neither a timeout nor a sender that is gone is an error here: the operation is shown as it is.
        let _ = tokio::time::timeout(wait, shown.wait_for(news)).await;
        let now = shown.borrow().clone();
        Some(now)
    }

    /// Asks the operation to end early and returns it as it is; one that is final stays as it is.
    pub fn cancel(&self, id: &str) -> Option<Operation> {
        let table = lock(&self.table);
        let entry = table.find(id)?;
        entry.cancel.cancel();
        let now = entry.shown.borrow().clone();
        Some(now)
    }

    /// Cancels everything and waits until the work has undone what it began, at most for `bound`.
    pub async fn stop(&self, bound: Duration) {
        self.stop.cancel();
        let running: Vec<_> =
            lock(&self.table).entries.values().map(|entry| entry.shown.subscribe()).collect();
        let all_final = async {
            for mut shown in running {
                let _ = shown.wait_for(|now| now.state.is_final()).await;
            }
        };
        let _ = tokio::time::timeout(bound, all_final).await;
    }

    /// How many wait for news of the operation.
    #[cfg(test)]
    pub(crate) fn watchers(&self, id: &str) -> usize {
        lock(&self.table).find(id).map_or(0, |entry| entry.shown.receiver_count())
    }

    fn watch(&self, id: &str) -> Option<watch::Receiver<Operation>> {
        lock(&self.table).find(id).map(|entry| entry.shown.subscribe())
    }
}

impl Table {
    fn find(&self, id: &str) -> Option<&Entry> {
        let number = id.strip_prefix(&self.prefix)?.strip_prefix('-')?.parse().ok()?;
        self.entries.get(&number)
    }

    fn forget_old(&mut self, now: Instant) {
        let fresh = |entry: &Entry| entry.finished.is_none_or(|at| now.duration_since(at) < KEPT_FOR);
        self.entries.retain(|_, entry| fresh(entry));
        let finished = self.entries.iter().filter(|(_, entry)| entry.finished.is_some());
        let mut excess = finished.clone().count().saturating_sub(KEPT_MAX);
        self.entries.retain(|_, entry| {
            let drop = entry.finished.is_some() && excess > 0;
            excess -= usize::from(drop);
            !drop
        });
    }
}

impl Task {
    /// Begins a step: what is being done now, and how much of what it will be, where that is known.
    pub fn step(&self, step: &str, total: Option<u64>, unit: ProgressUnit) {
        self.change(|now| now.progress = Progress { step: step.to_owned(), done: 0, total, unit });
    }

    /// How much of the present step is done. Watchers see the latest value, not every one.
    pub fn done(&self, done: u64) {
        self.change(|now| now.progress.done = done);
    }

    /// Returns when the operation should end early. Cancel-safe.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// True when the operation should end early.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn finish(&self, outcome: Result<OperationResult, Box<Problem>>) {
        let cancelled = self.is_cancelled();
        self.change(|now| {
            now.finished_at = Some(UnixTime::now());
            match outcome {
                Ok(result) => {
                    now.state = OperationState::Succeeded;
                    now.result = Some(result);
                }
                Err(_) if cancelled => now.state = OperationState::Cancelled,
                Err(problem) => {
                    now.state = OperationState::Failed;
                    now.problem = Some(*problem);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Operation)) {
        self.shown.send_modify(|now| {
            now.revision += 1;
            change(now);
        });
    }
}

fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    // The table is consistent between any two statements, so that a panic elsewhere does not spoil it.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn died_problem(died: &tokio::task::JoinError) -> Box<Problem> {
    tracing::error!(error = %died, "an operation's task died");
    Box::new(ApiError::internal(died.to_string()).problem(None))
}

#[cfg(test)]
mod tests;
