//! What a process tells of one file, and of those who wait: what the replica knows, in the words of the API.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use twinshare_fs::replica::{self, Account, AccountError, DirectoryAccount, FileAccount, Presence, WaitEnd};

use super::{Failure, Served, blocking};
use crate::api::wire::{
    Program, Reading, ReplicaRoot, UnixTime, WhyCame, WhyDirectory, WhyFile, WhyFound, WhyPresence,
    WhyWaitEnd, WhyWaited,
};

/// Reads that a report names at most, the longest waits first.
const READING_SHOWN: usize = 8;

/// Bytes of their paths: they are the peer's, and go into every report.
const READING_BYTES_MAX: usize = 2048;

impl Served {
    /// Who waits for what now.
    pub(super) fn reading(&self) -> Vec<Reading> {
        let mut bytes = 0;
        let fits = |reading: &Reading| {
            bytes += reading.path.len();
            bytes <= READING_BYTES_MAX
        };
        let all = self.replica().reading(READING_SHOWN).into_iter();
        all.map(|reading| told(reading, &self.roots)).take_while(fits).collect()
    }

    /// What is known of what lies at `path` below a root; `None` where nothing does.
    pub(in super::super) async fn account(
        &self,
        root: u32,
        path: String,
    ) -> Result<Option<WhyFound>, Failure> {
        let (replica, roots, since) = (self.replica(), self.roots.clone(), self.since);
        blocking(move || match replica.account(root, path.as_bytes()) {
            Ok(account) => Ok(Some(found(account, &roots, since))),
            Err(AccountError::NoSuchFile) => Ok(None),
            Err(error @ (AccountError::NotYet | AccountError::Disk(_))) => {
                Err(Failure::Other(format!("{path}: {error}")))
            }
        })
        .await
    }
}

fn found(account: Account, roots: &[ReplicaRoot], since: UnixTime) -> WhyFound {
    match account {
        Account::File(told) => WhyFound::File(file(told, roots, since)),
        Account::Directory(told) => WhyFound::Directory(directory(told)),
        Account::Symlink => WhyFound::Symlink,
    }
}

fn file(account: FileAccount, roots: &[ReplicaRoot], since: UnixTime) -> WhyFile {
    let FileAccount { presence, is_changed, bytes, blocks_here, blocks, came, waited, reading } = account;
    WhyFile {
        presence: match presence {
            Presence::Virtual => WhyPresence::Virtual,
            Presence::Partial => WhyPresence::Partial,
            Presence::Resident => WhyPresence::Resident,
            Presence::Local => WhyPresence::Local,
            Presence::Substitute => WhyPresence::Substitute,
        },
        changed: is_changed,
        bytes,
        blocks_here,
        blocks_total: blocks,
        came: came.map(|came| WhyCame {
            first: came.first.into(),
            last: came.last.into(),
            bytes_demand: came.bytes.demand,
            bytes_read_ahead: came.bytes.read_ahead,
            bytes_background: came.bytes.bulk,
        }),
        waited: waited.map(self::waited),
        reading: reading.into_iter().take(READING_SHOWN).map(|reading| told(reading, roots)).collect(),
        remembered_since: since,
    }
}

fn waited(waited: replica::Waited) -> WhyWaited {
    let (last_end, error) = match waited.last_end {
        WaitEnd::Served => (WhyWaitEnd::Served, None),
        WaitEnd::Failed(why) => (WhyWaitEnd::Failed, Some(why)),
        WaitEnd::GivenUp => (WhyWaitEnd::GivenUp, None),
    };
    WhyWaited {
        times: waited.times,
        first_by: waited.first_by.map(program),
        last: waited.last.into(),
        last_ms: milliseconds(waited.last_for),
        last_by: waited.last_by.map(program),
        last_end,
        error,
    }
}

fn directory(account: DirectoryAccount) -> WhyDirectory {
    let DirectoryAccount { is_made_here, files, bytes, files_here, bytes_here } = account;
    WhyDirectory { made_here: is_made_here, files_total: files, files_here, bytes_total: bytes, bytes_here }
}

fn told(reading: replica::Reading, roots: &[ReplicaRoot]) -> Reading {
    let root = roots.get(reading.root as usize).map_or("", |root| root.local.as_str());
    let path = Path::new(root).join(OsStr::from_bytes(&reading.path)).to_string_lossy().into_owned();
    Reading { path, program: reading.program.map(program), waits_ms: milliseconds(reading.waits_for) }
}

fn program(program: replica::Program) -> Program {
    Program { pid: program.pid, name: program.name }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
