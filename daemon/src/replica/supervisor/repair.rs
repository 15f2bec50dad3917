//! What is served again: after a start of the node, and after the death of a process.

use super::*;

/// The pause before the first new start of a process that died; it doubles with each further death.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// Deaths within [`DEATHS_WITHIN`] after which a process is left alone and its replicas are shown as failed; also how
/// often a replica is tried that fails for no reason that passes by itself.
const DEATHS_MAX: usize = 5;

/// The span over which deaths are counted.
const DEATHS_WITHIN: Duration = Duration::from_secs(600);

/// The pause after a replica could not be served; it doubles up to [`RETRY_MAX`].
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A peer that comes back without being heard is noticed within a minute, at the price of a few packets.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Supervisor {
    /// Has a replica served from now on, in the background: tries again while the peer is away or something else that
    /// passes is in the way.
    pub(in super::super) fn keep_serving(&self, spec: Spec) {
        if self.state().repaired.insert(spec.id.clone()) {
            self.state().wanted.insert(spec.id.clone(), spec.clone());
            tokio::spawn(keep_trying(self.this.clone(), spec));
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

    /// Serves again what the process that ended has left dead. What was unmounted by hand stays unmounted.
    pub(super) fn ended(self: Arc<Self>, key: String, pid: u32) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (wanted, is_replaced) = self.left_by(&key, pid);
            let looked = tokio::task::spawn_blocking(move || {
                wanted
                    .into_iter()
                    .partition::<Vec<_>, _>(|spec| fuse::is_dead(&spec.mount_point).unwrap_or(false))
            });
            let (dead, unmounted) = looked.await.unwrap_or_default();
            // Where another process has taken its place, that one may serve what is not dead.
            for spec in unmounted.iter().filter(|_| !is_replaced) {
                self.state().wanted.remove(&spec.id);
            }
            if dead.is_empty() {
                return;
            }
            let Some(pause) = self.count_death(&key, &dead) else { return };
            tokio::time::sleep(pause).await;
            for spec in dead {
                self.keep_serving(spec);
            }
        })
    }

    /// The replicas of the process that ended, apart from those that somebody is attaching and waits for; and whether
    /// another process has taken its place.
    fn left_by(&self, key: &str, pid: u32) -> (Vec<Spec>, bool) {
        let mut state = self.state();
        let is_replaced = state.processes.get(key).is_some_and(|process| process.pid != pid);
        if !is_replaced {
            state.processes.remove(key);
        }
        let of_process = state.wanted.values().filter(|spec| spec.process == key);
        (of_process.filter(|spec| !state.starting.contains(&spec.id)).cloned().collect(), is_replaced)
    }

    /// How long to wait before the next start; `None` when there have been too many.
    pub(super) fn count_death(&self, key: &str, dead: &[Spec]) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state();
        state.deaths.retain(|_, deaths| deaths.iter().any(|at| now.duration_since(*at) < DEATHS_WITHIN));
        let deaths = state.deaths.entry(key.to_owned()).or_default();
        deaths.retain(|at| now.duration_since(*at) < DEATHS_WITHIN);
        deaths.push(now);
        let count = deaths.len();
        if count <= DEATHS_MAX {
            return Some(RESTART_AFTER * 2u32.pow(count as u32 - 1));
        }
        let minutes = DEATHS_WITHIN.as_secs() / 60;
        let log = log_path(&self.home, key);
        for spec in dead {
            let trouble =
                format!("its process died {count} times in {minutes} minutes; its log is {}", log.display());
            state.trouble.insert(spec.id.clone(), trouble);
        }
        None
    }

    /// One try. Nothing when it is no longer wanted.
    async fn try_again(&self, spec: &Spec) -> Option<Result<(), Failure>> {
        let claim = self.claims.claim(&spec.mount_point).await;
        let spec = self.state().wanted.get(&spec.id).cloned()?;
        Some(self.serve(&spec, &claim).await)
    }
}

async fn keep_trying(supervisor: Weak<Supervisor>, spec: Spec) {
    let (mut pause, mut failures) = (RETRY_AFTER, 0);
    while let Some(this) = supervisor.upgrade() {
        let failure = match this.try_again(&spec).await {
            Some(Err(failure)) => failure,
            Some(Ok(())) | None => break,
        };
        tracing::warn!(replica = spec.id, workspace = spec.workspace, %failure, "cannot be served");
        failures += usize::from(!passes(&failure));
        if failures == DEATHS_MAX {
            break;
        }
        let hurry = this.hurry.clone();
        // A node that stops meanwhile is not kept.
        drop(this);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = hurry.notified() => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
    if let Some(this) = supervisor.upgrade() {
        this.state().repaired.remove(&spec.id);
    }
}

/// True for what may be otherwise in a while without anybody doing something about it here.
fn passes(failure: &Failure) -> bool {
    match failure {
        // Cancelled by an order to end it, which has failed if it is still wanted.
        Failure::Unreachable(_) | Failure::Busy(_) | Failure::Cancelled => true,
        Failure::NoSuchReplica
        | Failure::Leaving
        | Failure::Directory(_)
        | Failure::Refused(_)
        | Failure::Unsupported(_)
        | Failure::Other(_) => false,
    }
}
