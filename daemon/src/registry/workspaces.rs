//! Workspaces and their shares.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use super::columns::{joined, parsed_at, path_at, path_bytes, paths_at, seconds, time, time_at};
use super::{RegistryError, Tables};
use crate::workspace::WorkspaceName;

/// A registered workspace, for as long as it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(pub i64);

/// A registered workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceRecord {
    /// Its key.
    pub id: WorkspaceId,
    /// Its name, unique on this node.
    pub name: WorkspaceName,
    /// Its directory.
    pub directory: PathBuf,
    /// When it was registered.
    pub created: SystemTime,
    /// How it is offered, where it is.
    pub share: Option<ShareRecord>,
}

/// That a workspace is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRecord {
    /// To whom.
    pub mode: ShareMode,
    /// Since when.
    pub since: SystemTime,
    /// The companions its owner was shown when it was shared: no others are served with it.
    pub companions: Vec<PathBuf>,
}

/// To whom a workspace is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareMode {
    /// Every peer may see and read it.
    Open,
    /// Nobody may yet.
    Closed,
}

impl ShareMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A text that is no share mode.
#[derive(Debug, thiserror::Error)]
#[error("neither `open` nor `closed`")]
pub struct NotAShareMode;

impl FromStr for ShareMode {
    type Err = NotAShareMode;

    fn from_str(text: &str) -> Result<Self, NotAShareMode> {
        [Self::Open, Self::Closed].into_iter().find(|mode| mode.as_str() == text).ok_or(NotAShareMode)
    }
}

const SELECT: &str = "SELECT id, name, directory, created, mode, since, companions FROM workspaces LEFT JOIN shares ON workspace = id";

fn unknown(name: &WorkspaceName) -> RegistryError {
    RegistryError::NoSuchWorkspace(name.to_string())
}

fn record(row: &Row<'_>) -> rusqlite::Result<WorkspaceRecord> {
    let share = match row.get::<_, Option<i64>>("since")? {
        Some(since) => Some(ShareRecord {
            mode: parsed_at(row, "mode")?,
            since: time(since),
            companions: paths_at(row, "companions")?,
        }),
        None => None,
    };
    Ok(WorkspaceRecord {
        id: WorkspaceId(row.get("id")?),
        name: parsed_at(row, "name")?,
        directory: path_at(row, "directory")?,
        created: time_at(row, "created")?,
        share,
    })
}

impl Tables {
    /// Registers `directory` (absolute, canonical) as `name`. Doing it again changes nothing; a name or a directory
    /// that is taken is an error.
    pub fn add_workspace(
        &mut self,
        name: &WorkspaceName,
        directory: &Path,
        now: SystemTime,
    ) -> Result<WorkspaceRecord, RegistryError> {
        if let Some(found) = self.workspace_in(directory)? {
            return match found.name == *name {
                true => Ok(found),
                false => Err(RegistryError::DirectoryTaken { directory: found.directory, name: found.name }),
            };
        }
        if let Some(found) = self.workspace(name)? {
            return Err(RegistryError::NameTaken { name: found.name, directory: found.directory });
        }
        self.connection.execute(
            "INSERT INTO workspaces (name, directory, created) VALUES (?1, ?2, ?3)",
            params![name.as_str(), path_bytes(directory), seconds(now)],
        )?;
        self.workspace(name)?.ok_or_else(|| unknown(name))
    }

    /// All workspaces by name.
    pub fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, RegistryError> {
        let mut query = self.connection.prepare_cached(&format!("{SELECT} ORDER BY name"))?;
        let rows = query.query_map([], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The workspace of that name.
    pub fn workspace(&self, name: &WorkspaceName) -> Result<Option<WorkspaceRecord>, RegistryError> {
        let mut query = self.connection.prepare_cached(&format!("{SELECT} WHERE name = ?1"))?;
        Ok(query.query_row([name.as_str()], record).optional()?)
    }

    /// The workspace whose directory is `directory`.
    pub fn workspace_in(&self, directory: &Path) -> Result<Option<WorkspaceRecord>, RegistryError> {
        let mut query = self.connection.prepare_cached(&format!("{SELECT} WHERE directory = ?1"))?;
        Ok(query.query_row([path_bytes(directory)], record).optional()?)
    }

    /// Forgets a workspace with its share, snapshots and leases. Its files are nobody's business here.
    pub fn remove_workspace(&mut self, name: &WorkspaceName) -> Result<(), RegistryError> {
        let removed = self.connection.execute("DELETE FROM workspaces WHERE name = ?1", [name.as_str()])?;
        if removed == 0 { Err(unknown(name)) } else { Ok(()) }
    }

    /// Offers a workspace with these companions; where it is offered already, the time stays, and without a `mode`
    /// that too. Without both, it is closed.
    pub fn share(
        &mut self,
        name: &WorkspaceName,
        mode: Option<ShareMode>,
        companions: &[PathBuf],
        now: SystemTime,
    ) -> Result<WorkspaceRecord, RegistryError> {
        let workspace = self.workspace(name)?.ok_or_else(|| unknown(name))?;
        let mode = mode.or(workspace.share.map(|share| share.mode)).unwrap_or(ShareMode::Closed);
        self.connection.execute(
            "INSERT INTO shares (workspace, mode, since, companions) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (workspace) DO UPDATE SET mode = excluded.mode, companions = excluded.companions",
            params![workspace.id.0, mode.as_str(), seconds(now), joined(companions)],
        )?;
        self.workspace(name)?.ok_or_else(|| unknown(name))
    }

    /// No longer offers a workspace; true if it was. Its snapshots stay until their leases end.
    pub fn unshare(&mut self, name: &WorkspaceName) -> Result<bool, RegistryError> {
        let workspace = self.workspace(name)?.ok_or_else(|| unknown(name))?;
        Ok(self.connection.execute("DELETE FROM shares WHERE workspace = ?1", [workspace.id.0])? > 0)
    }
}
