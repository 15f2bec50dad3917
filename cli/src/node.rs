//! How commands reach the node.

use std::path::Path;

use twinshare_daemon::client::Client;
use twinshare_daemon::home::Home;

use crate::error::{Error, Kind, Result};
use crate::text::shown;

/// The node of this process's environment.
pub(crate) fn client() -> Result<Client> {
    Ok(Client::new(Home::from_environment()?.api_socket()))
}

/// Waits for `work` on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Leaves the directory in which this process was started: one that asks for the end of a mount must not be among those
/// who use it. To be called once no relative path is looked at any more.
pub(crate) fn leave_directory() -> Result<()> {
    Ok(std::env::set_current_dir("/")?)
}

/// A path as the node takes it: absolute, without links as far as it exists, and UTF-8.
///
/// What is at the end is not looked at if it cannot be: it may be a mount that is dead.
pub(crate) fn absolute(path: &Path) -> Result<String> {
    let by_parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let whole = path.canonicalize().ok().or_else(by_parent);
    let whole = whole.map_or_else(|| std::path::absolute(path), Ok)?;
    whole.into_os_string().into_string().map_err(|path| {
        let message = format!("{} is not valid UTF-8", shown(&path.to_string_lossy()));
        Error::new(Kind::Usage, message).hint("use a directory with another name")
    })
}
