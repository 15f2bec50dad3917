//! On whose behalf something is read, and which program that is.
//!
//! Whoever serves a program says so around its request; what waits for content somewhere below learns it without every
//! function on the way handing it on.

use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Threads remembered with their program: those that read at the same time.
const KNOWN_MAX: usize = 16;

/// For how long a thread is taken for the same program's: numbers of threads come back, though not so soon.
const KNOWN_FOR: Duration = Duration::from_secs(1);

tokio::task_local! {
    static THREAD: u32;
}

/// Does `work` for the thread of this number in this process's pid namespace; 0 is a thread that cannot be seen.
pub async fn on_behalf_of<T>(thread: u32, work: impl Future<Output = T>) -> T {
    THREAD.scope(thread, work).await
}

/// The thread on whose behalf the current task works.
pub(super) fn thread() -> Option<u32> {
    THREAD.try_with(|thread| *thread).ok().filter(|thread| *thread != 0)
}

/// A program that reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its process.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
}

/// The program that a thread belongs to: two small files of `/proc`.
fn program(thread: u32) -> Option<Program> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    // One that has ended, and that nobody has collected.
    if field("State:")?.starts_with(['Z', 'X']) {
        return None;
    }
    let pid = field("Tgid:")?.parse().ok()?;
    // A thread may have a name of its own.
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(Program { pid, name: String::from_utf8_lossy(&name).trim_end().to_owned() })
}

/// The programs of threads that were looked for lately.
#[derive(Debug, Default)]
pub(super) struct Programs(VecDeque<(u32, Instant, Program)>);

impl Programs {
    /// The program of a thread that exists.
    pub(super) fn of(&mut self, thread: u32) -> Option<Program> {
        let now = Instant::now();
        self.0.retain(|(_, at, _)| now.saturating_duration_since(*at) < KNOWN_FOR);
        if let Some((.., known)) = self.0.iter().find(|(known, ..)| *known == thread) {
            return Some(known.clone());
        }
        let found = program(thread)?;
        self.0.truncate(KNOWN_MAX - 1);
        self.0.push_front((thread, now, found.clone()));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_belongs_to_its_program() {
        let named = std::thread::Builder::new().name("of-its-own".into());
        let looked = named.spawn(|| program(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()));
        let found = looked.unwrap().join().unwrap().unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(!found.name.is_empty() && found.name != "of-its-own", "{found:?}");
        assert_eq!(program(u32::MAX), None);
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_remembered_and_not_for_long() {
        let mut programs = Programs::default();
        let this = std::process::id();
        for _ in 0..3 {
            assert_eq!(programs.of(this).unwrap().pid, this);
        }
        assert_eq!(programs.0.len(), 1);
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(programs.of(u32::MAX), None);
        assert_eq!(programs.0.len(), 0);
    }

    #[tokio::test]
    async fn only_what_is_done_for_a_thread_is() {
        assert_eq!(thread(), None);
        assert_eq!(on_behalf_of(7, async { thread() }).await, Some(7));
        assert_eq!(on_behalf_of(0, async { thread() }).await, None);
    }
}
