//! What a workspace is: a directory with a [`twinshare.yaml`](WorkspaceFile), and what else belongs to it.
//!
//! [`create()`] makes one of a directory, [`Workspace::load`] reads one that is registered. What lies outside the
//! directory and is needed inside it is found by following the links that lead out ([`detect()`]): an interpreter's
//! directory becomes a companion, the rest is listed, and what only the system can provide is a
//! [requirement](requirements()).

use std::path::{Path, PathBuf};
use std::time::SystemTime;

mod companion;
mod create;
mod detect;
mod elf;
mod file;
mod name;
mod place;
mod python;
mod requirements;
mod roots;
mod scan;

pub use companion::{BadCompanion, CompanionError, CompanionPath};
pub use create::{CreateError, Created, create};
pub use detect::{Detected, FoundCompanion, LeavingLink, detect};
pub use file::{Environment, FILE_NAME, FileError, ShareDefaults, WorkspaceFile};
pub use name::{BadWorkspaceName, NAME_CHARS_MAX, WorkspaceName};
pub use place::{PlaceError, check_place};
pub use requirements::{Requirement, requirements};
pub use roots::{Followed, Root, Roots};

use crate::home::Home;
use crate::registry::WorkspaceRecord;

/// Why a directory cannot be used as a workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// It must not be one.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A companion cannot be shared.
    #[error(transparent)]
    Companion(#[from] CompanionError),
}

/// A registered workspace with what its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its name on this node, which wins over the one in the file.
    pub name: WorkspaceName,
    /// Its directory.
    pub directory: PathBuf,
    /// When it was registered.
    pub created: SystemTime,
    /// What its file says.
    pub file: WorkspaceFile,
}

impl Workspace {
    /// Reads the file of a registered workspace. Blocks on the disk.
    pub fn load(record: &WorkspaceRecord) -> Result<Self, WorkspaceError> {
        Ok(Self {
            name: record.name.clone(),
            directory: record.directory.clone(),
            created: record.created,
            file: WorkspaceFile::load(&record.directory)?,
        })
    }

    /// The directory trees that are shared: the workspace, then its companions. Blocks on the disk: each companion
    /// is checked, and one that must not or cannot be shared is an error. Those that lie in another one are left out.
    pub fn roots(&self, home: &Home) -> Result<Vec<PathBuf>, WorkspaceError> {
        Ok(companion::roots(&self.directory, &self.file.companions, home)?)
    }

    /// The same, where `record` says it is shared and its owner was shown every companion when it was.
    pub fn shared_roots(
        &self,
        record: &WorkspaceRecord,
        home: &Home,
    ) -> Result<Vec<PathBuf>, WorkspaceError> {
        let roots = self.roots(home)?;
        let confirmed = record.share.as_ref().map_or(&[][..], |share| &share.companions);
        companion::check_confirmed(&roots, confirmed)?;
        Ok(roots)
    }

    /// What it needs from a machine and does not bring along. Blocks on the disk.
    pub fn requirements(&self, home: &Home) -> Result<Vec<Requirement>, WorkspaceError> {
        let roots = self.roots(home)?.into_iter().map(Root::in_place);
        Ok(requirements(&Roots::new(roots)))
    }
}

/// The user's home directory, where one is known.
pub(crate) fn user_home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

/// The directories of this node and of the user's others, without links.
fn nodes_directories(home: &Home) -> Vec<PathBuf> {
    let all = home.directories_of_nodes().into_iter();
    all.map(|path| path.canonicalize().unwrap_or(path)).collect()
}

/// True when `path` is `directory` or lies in it.
fn is_within(path: &Path, directory: &Path) -> bool {
    path.starts_with(directory)
}
