//! Listens on the Unix socket: who may connect, how many at a time, and how it ends.
//!
//! The socket is private by its mode and its directory already; the kernel's word on who connected (`SO_PEERCRED`)
//! decides again, since modes get changed by hand.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at a time; the next one waits in the kernel's queue. A command needs one.
const CONNECTIONS_MAX: usize = 128;

/// A connection that has not sent the whole head of a request by then is closed.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long accepting pauses when the kernel has no descriptor left for a connection.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then lets the requests under way end, for `grace` at most. When it
/// returns, every connection is closed.
pub async fn serve(listener: UnixListener, router: Router, stop: CancellationToken, grace: Duration) {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        if let Some((stream, permit)) = accepted {
            connections.spawn(converse(stream, router.clone(), stop.clone(), permit));
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(open = connections.len(), "requests still under way were cut off");
    }
    connections.shutdown().await;
}

/// The next connection of somebody who may have one. Cancel-safe.
async fn accept(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> Option<(UnixStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) if is_admitted(&stream) => Some((stream, permit)),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "a connection to the API could not be accepted");
            tokio::time::sleep(NO_DESCRIPTOR_PAUSE).await;
            None
        }
    }
}

/// The user the node runs for, and root.
fn is_admitted(stream: &UnixStream) -> bool {
    let user = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(caller) if caller.uid() == user || caller.uid() == 0 => true,
        Ok(caller) => {
            tracing::warn!(
                user = caller.uid(),
                process = caller.pid(),
                "another user was turned away from the API"
            );
            false
        }
        Err(error) => {
            tracing::warn!(%error, "a caller of the API without credentials was turned away");
            false
        }
    }
}

async fn converse(
    stream: UnixStream,
    router: Router,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API broke");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream as Blocking;

    use rustix::process::Uid;
    use rustix::thread::set_thread_res_uid;

    use super::*;

    /// Connects as `user` and returns what the other side does: an error, or how many bytes come before the end.
    fn connect_as(
        user: Option<u32>,
        socket: std::path::PathBuf,
    ) -> std::thread::JoinHandle<std::io::Result<usize>> {
        // The kernel takes the credentials from the thread that connects, so only this thread changes its user.
        std::thread::spawn(move || {
            if let Some(user) = user.map(Uid::from_raw) {
                set_thread_res_uid(user, user, user)?;
            }
            let mut stream = Blocking::connect(socket)?;
            std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())
        })
    }

    #[tokio::test]
    async fn another_user_is_turned_away() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        // As if somebody had opened it to everyone.
        set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Router::new(), stop.clone(), Duration::from_secs(5)));
        let ask = async |user| {
            let asking = connect_as(user, socket.clone());
            tokio::task::spawn_blocking(move || asking.join().unwrap()).await.unwrap()
        };
        assert!(ask(None).await.unwrap() > 0);
        if rustix::process::geteuid().is_root() {
            assert!(!matches!(ask(Some(4711)).await, Ok(1..)));
        } else {
            eprintln!("skipped: only root can connect as another user");
        }
        stop.cancel();
        served.await.unwrap();
    }
}
