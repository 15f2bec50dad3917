//! How values lie in columns: paths and ids as blobs, times as whole seconds since 1970.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rusqlite::Row;
use rusqlite::types::Type;
use twinshare_fs::digest::Digest;
use twinshare_fs::manifest::SnapshotId;
use twinshare_transport::identity::{PeerId, PublicKey};

type Column<T> = rusqlite::Result<T>;

pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(super) fn time_at(row: &Row<'_>, column: &str) -> Column<SystemTime> {
    row.get(column).map(time)
}

pub(super) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

pub(super) fn path_at(row: &Row<'_>, column: &str) -> Column<PathBuf> {
    row.get(column).map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

/// Several paths as one value: none of them holds a NUL.
pub(super) fn joined(paths: &[PathBuf]) -> Vec<u8> {
    paths.iter().map(|path| path_bytes(path)).collect::<Vec<_>>().join(&0)
}

pub(super) fn paths_at(row: &Row<'_>, column: &str) -> Column<Vec<PathBuf>> {
    let bytes: Vec<u8> = row.get(column)?;
    let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

pub(super) fn peer_at(row: &Row<'_>, column: &str) -> Column<PeerId> {
    row.get(column).map(PeerId)
}

pub(super) fn public_key_at(row: &Row<'_>, column: &str) -> Column<Option<PublicKey>> {
    row.get::<_, Option<[u8; 32]>>(column).map(|key| key.map(PublicKey))
}

pub(super) fn snapshot_at(row: &Row<'_>, column: &str) -> Column<SnapshotId> {
    row.get(column).map(|bytes| SnapshotId(Digest(bytes)))
}

/// A text that is parsed; one that cannot be is reported as a value of the wrong type.
pub(super) fn parsed_at<T>(row: &Row<'_>, column: &str) -> Column<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let index = row.as_ref().column_index(column)?;
    let text: String = row.get(index)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
}
