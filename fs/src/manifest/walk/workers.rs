//! The threads of a walk: some list directories, one appends the listings in order.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};

use super::listing::{self, Directory, Listed};
use super::{AHEAD, Root, THREADS_MAX, Walk, WalkError, WalkOptions};

/// Directories handed to a thread at once, so that small ones do not cost a wake-up each.
const BATCH: usize = 16;

/// Consecutive directories, and the number of the first.
struct Batch {
    number: u64,
    directories: Vec<Directory>,
}

type Done = (u64, Result<Vec<(Directory, Listed)>, WalkError>);

/// Batches that wait for a thread.
#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Batch>,
    closed: bool,
}

impl Waiting {
    fn push(&self, batch: Batch) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).batches.push_back(batch);
        self.news.notify_one();
    }

    /// The next batch; `None` once closed.
    fn pop(&self) -> Option<Batch> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |state: &mut State| state.batches.is_empty() && !state.closed;
        let mut state = self.news.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        if state.closed { None } else { state.batches.pop_front() }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.news.notify_all();
    }
}

/// Closes the queue however its owner ends, so that no thread waits for ever.
struct CloseAtEnd<'q>(&'q Waiting);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Lists every directory in the queue of `walk`, and those found on the way.
pub(super) fn run(roots: &[Root], options: &WalkOptions<'_>, walk: &mut Walk<'_>) -> Result<(), WalkError> {
    let threads = options.threads.clamp(1, THREADS_MAX);
    let waiting = Waiting::default();
    std::thread::scope(|scope| {
        let close = CloseAtEnd(&waiting);
        let (done, results) = mpsc::channel();
        for _ in 0..threads {
            let (done, waiting) = (done.clone(), &waiting);
            scope.spawn(move || work(roots, options, waiting, &done));
        }
        drop(done);
        let result = append_all(threads, options, walk, &waiting, &results);
        drop(close);
        result
    })
}

fn work(roots: &[Root], options: &WalkOptions<'_>, waiting: &Waiting, done: &mpsc::Sender<Done>) {
    let mut lister = listing::Lister::new(roots, options);
    take_all(waiting, done, |directory| lister.list(directory));
}

/// Lists batches until the queue is closed.
fn take_all(
    waiting: &Waiting,
    done: &mpsc::Sender<Done>,
    mut list: impl FnMut(&Directory) -> Result<Listed, WalkError>,
) {
    // A thread that panics ends the others, and with them the walk.
    let _close = CloseAtEnd(waiting);
    while let Some(Batch { number, directories }) = waiting.pop() {
        let list = |directory| list(&directory).map(|listed| (directory, listed));
        let listed = directories.into_iter().map(list).collect();
        if done.send((number, listed)).is_err() {
            return;
        }
    }
}

/// Hands out directories and appends what comes back, in order.
fn append_all(
    threads: usize,
    options: &WalkOptions<'_>,
    walk: &mut Walk<'_>,
    waiting: &Waiting,
    results: &mpsc::Receiver<Done>,
) -> Result<(), WalkError> {
    // Results that came before their turn, by their distance from the next one.
    let mut early: VecDeque<Option<Vec<(Directory, Listed)>>> = VecDeque::new();
    let (mut next, mut handed_out, mut ahead) = (0, 0, 0);
    loop {
        while ahead < AHEAD * threads && !walk.queue.is_empty() {
            // Few directories are shared evenly, many go out in whole batches.
            let size = (walk.queue.len() / threads).clamp(1, BATCH);
            let directories: Vec<_> = walk.queue.drain(..size).collect();
            ahead += directories.len();
            waiting.push(Batch { number: handed_out, directories });
            handed_out += 1;
        }
        if next == handed_out {
            return Ok(());
        }
        // A channel without senders means a thread that panicked; the scope passes the panic on.
        let (number, listed) = results.recv().map_err(|_| WalkError::Cancelled)?;
        if options.cancel.load(Relaxed) {
            return Err(WalkError::Cancelled);
        }
        let at = (number - next) as usize;
        early.resize_with(early.len().max(at + 1), || None);
        early[at] = Some(listed?);
        while let Some(Some(_)) = early.front() {
            let listed = early.pop_front().flatten().unwrap_or_default();
            next += 1;
            ahead -= listed.len();
            for (directory, listed) in listed {
                walk.append(&directory, listed)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Surroundings;

    #[test]
    fn a_thread_that_panics_ends_the_others() {
        let waiting = Waiting::default();
        let path = Vec::new();
        let directory = Directory { root: 0, path, parent: Surroundings::default(), closed: false };
        let (done, results) = mpsc::channel();
        std::thread::scope(|scope| {
            let (waiting, second) = (&waiting, done.clone());
            // They would wait for more; the test ends only if they do.
            let idle = scope.spawn(move || take_all(waiting, &second, |_| panic!("of a test")));
            let other = scope.spawn(move || take_all(waiting, &done, |_| panic!("of a test")));
            waiting.push(Batch { number: 0, directories: vec![directory] });
            let panicked = [idle.join().is_err(), other.join().is_err()];
            assert_eq!(panicked.iter().filter(|panicked| **panicked).count(), 1);
            assert!(results.recv().is_err());
        });
    }
}
