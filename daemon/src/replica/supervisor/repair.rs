//! What is served again: after a start of the node, and after the death of a process.

use super::*;

/// The pause before the first new start of a process that died; it doubles with each further death, up to
/// [`RETRY_MAX`].
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// Deaths within [`DEATHS_WITHIN`] that are made good in passing; after one more the replicas of the process are shown
/// as failed while they wait for its next start.
const DEATHS_MAX: usize = 5;

/// The span over which deaths are counted.
const DEATHS_WITHIN: Duration = Duration::from_secs(600);

/// The pause after a replica could not be served; it doubles up to [`RETRY_MAX`].
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A peer that comes back without being heard, and anything else that has become right, is noticed within a minute, at
/// the price of a few packets or of a process.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The pause while somebody still uses a dead mount: a shell that leaves it finds it repaired when it comes back. A look
/// costs no process, and a person waits.
const RETRY_BUSY: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Has a replica served from now on, in the background: tries again until it is, or is no longer wanted.
    pub(in super::super) fn keep_serving(&self, spec: Spec) {
        self.state().wanted.insert(spec.id.clone(), spec.clone());
        self.serve_again(spec, Duration::ZERO);
    }

    /// The same after a pause, unless it has been stopped meanwhile: then it may be gone.
    fn serve_again(&self, spec: Spec, pause: Duration) {
        let mut state = self.state();
        if state.wanted.contains_key(&spec.id) && state.repaired.insert(spec.id.clone()) {
            tokio::spawn(keep_trying(self.this.clone(), spec, pause));
        }
    }

    /// The spec has changed: from now on this one is served.
    pub(in super::super) fn update(&self, spec: &Spec) {
        if let Some(wanted) = self.state().wanted.get_mut(&spec.id) {
            wanted.clone_from(spec);
        }
    }

    /// Tries at once what would be tried later.
    pub(in super::super) fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    /// Serves again what the process that ended has left dead, or unfinished. What was unmounted by hand stays unmounted.
    pub(super) fn ended(self: Arc<Self>, key: String, pid: u32) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (wanted, is_replaced) = self.left_by(&key, pid);
            let home = self.home.clone();
            let looked = tokio::task::spawn_blocking(move || {
                // One that was on its last steps may be neither mounted nor an ordinary directory.
                let is_left = |spec: &Spec| match spec.plain {
                    true => settled::of(&home, &spec.id).is_none(),
                    false => {
                        settled::is_pending(&home, &spec.id)
                            || fuse::is_dead(&spec.mount_point).unwrap_or(false)
                    }
                };
                wanted.into_iter().partition::<Vec<_>, _>(is_left)
            });
            let (dead, unmounted) = looked.await.unwrap_or_default();
            // Where another process has taken its place, that one may serve what is not dead.
            for spec in unmounted.iter().filter(|_| !is_replaced) {
                self.state().wanted.remove(&spec.id);
            }
            if dead.is_empty() {
                return;
            }
            let pause = self.count_death(&key, &dead);
            for spec in dead {
                self.serve_again(spec, pause);
            }
        })
    }

    /// The replicas that the process served when it ended: not those that somebody is attaching, or tries again and
    /// again, and for which it may have ended since it had nothing to serve. And whether another process has taken its
    /// place.
    fn left_by(&self, key: &str, pid: u32) -> (Vec<Spec>, bool) {
        let mut state = self.state();
        let is_replaced = state.processes.get(key).is_some_and(|process| process.pid != pid);
        if !is_replaced {
            state.processes.remove(key);
        }
        let is_served = |spec: &&Spec| {
            spec.process == key && !state.starting.contains(&spec.id) && !state.repaired.contains(&spec.id)
        };
        (state.wanted.values().filter(is_served).cloned().collect(), is_replaced)
    }

    /// How long to wait before the next start.
    pub(super) fn count_death(&self, key: &str, dead: &[Spec]) -> Duration {
        let now = Instant::now();
        let mut state = self.state();
        state.deaths.retain(|_, deaths| deaths.iter().any(|at| now.duration_since(*at) < DEATHS_WITHIN));
        let deaths = state.deaths.entry(key.to_owned()).or_default();
        deaths.retain(|at| now.duration_since(*at) < DEATHS_WITHIN);
        deaths.push(now);
        let count = deaths.len();
        let doublings = u32::try_from(count - 1).unwrap_or(u32::MAX);
        let pause = RESTART_AFTER.saturating_mul(2u32.saturating_pow(doublings)).min(RETRY_MAX);
        if count > DEATHS_MAX {
            let (minutes, seconds) = (DEATHS_WITHIN.as_secs() / 60, pause.as_secs());
            let log = log_path(&self.home, key);
            let trouble = format!(
                "its process died {count} times in {minutes} minutes; it is started again after {seconds} seconds; its log is {}",
                log.display()
            );
            state.trouble.extend(dead.iter().map(|spec| (spec.id.clone(), trouble.clone())));
        }
        pause
    }

    /// One try. Nothing when it is no longer wanted, or is served by now.
    async fn try_again(&self, spec: &Spec) -> Option<Result<(), Failure>> {
        let claim = self.claims.claim(&spec.mount_point).await;
        let spec = {
            let mut state = self.state();
            let wanted = state.wanted.get(&spec.id).cloned();
            if wanted.is_none() {
                state.repaired.remove(&spec.id);
            }
            wanted.filter(|spec| state.repaired.contains(&spec.id))?
        };
        // A dead mount that is in use is found so without a process. What else is in the way, a process can tell better:
        // it may unmount in ways of its own.
        let swept = self.sweep(&spec).await.err().filter(|failure| matches!(failure, Failure::Busy(_)));
        if let Some(busy) = swept {
            self.state().trouble.insert(spec.id, busy.to_string());
            return Some(Err(busy));
        }
        Some(self.serve(&spec, &claim).await)
    }
}

async fn keep_trying(supervisor: Weak<Supervisor>, spec: Spec, first: Duration) {
    tokio::time::sleep(first).await;
    let (mut pause, mut last) = (RETRY_AFTER, String::new());
    while let Some(this) = supervisor.upgrade() {
        let Some(Err(failure)) = this.try_again(&spec).await else { return };
        if failure == Failure::Settled {
            return;
        }
        let said = failure.to_string();
        if said != last {
            tracing::warn!(replica = spec.id, workspace = spec.workspace, %failure, "cannot be served");
            last = said;
        }
        let hurry = this.hurry.clone();
        // A node that stops meanwhile is not kept.
        drop(this);
        tokio::select! {
            () = tokio::time::sleep(pause.min(pause_max(&failure))) => {}
            () = hurry.notified() => {}
        }
        pause = longer(pause, &failure);
    }
}

/// The pause after the next failure, if this one was the same.
pub(super) fn longer(pause: Duration, failure: &Failure) -> Duration {
    (pause * 2).min(pause_max(failure))
}

fn pause_max(failure: &Failure) -> Duration {
    match failure {
        Failure::Busy(_) => RETRY_BUSY,
        Failure::NoSuchReplica
        | Failure::Leaving
        | Failure::Incomplete(_)
        | Failure::Settled
        | Failure::Cancelled
        | Failure::Directory(_)
        | Failure::Unreachable(_)
        | Failure::Refused(_)
        | Failure::Unsupported(_)
        | Failure::NothingToDecide(_)
        | Failure::Other(_) => RETRY_MAX,
    }
}
