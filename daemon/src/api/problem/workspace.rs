//! The problems with workspaces of this node: registering, describing, sharing and running them.

use axum::http::StatusCode;

use super::{Kind, internal, kind};
use crate::registry::RegistryError;
use crate::runtime::PlanError;
use crate::share::ShareError;
use crate::snapshot::SnapshotError;
use crate::workspace::{CompanionError, CreateError, FileError, PlaceError, WorkspaceError};
use crate::yaml::YamlError;

pub(super) fn create_kind(error: &CreateError) -> Kind {
    match error {
        CreateError::Workspace(error) => workspace_kind(error),
        CreateError::NameDiffers { .. } => kind(
            StatusCode::CONFLICT,
            "name_differs",
            "File says another name",
            "the name in `twinshare.yaml` is the workspace's: change it there",
        ),
        CreateError::NoName { .. } => kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_name",
            "Invalid name",
            "choose a name with `--name`",
        ),
        CreateError::Write { .. } => kind(
            StatusCode::CONFLICT,
            "unusable_place",
            "Directory cannot be used",
            "a workspace's directory must be writable once, for its `twinshare.yaml`; or put one there yourself",
        ),
        CreateError::Registry(error) => registry_kind(error),
    }
}

pub(super) fn workspace_kind(error: &WorkspaceError) -> Kind {
    match error {
        WorkspaceError::Place(error) => place_kind(error),
        WorkspaceError::File(error) => file_kind(error),
        WorkspaceError::Companion(error) => companion_kind(error),
    }
}

fn place_kind(error: &PlaceError) -> Kind {
    let hint = match error {
        PlaceError::Disk { .. } => "name a directory that exists and that you may read",
        PlaceError::HoldsHome { .. } => "name the directory of one project in it",
        PlaceError::HoldsIdentity { .. } => {
            "share a directory in it, or move the node's own state elsewhere with TWINSHARE_HOME"
        }
        PlaceError::NodeState { .. } => "name a directory outside the node's own",
        PlaceError::Replica { .. } => "share it on the node it comes from",
    };
    kind(StatusCode::UNPROCESSABLE_ENTITY, "unusable_place", "Directory cannot be used", hint)
}

fn file_kind(error: &FileError) -> Kind {
    let hint = match error {
        FileError::Missing { .. } => "write it anew with `twinshare workspace create DIR`",
        FileError::Yaml(YamlError::Disk { .. }) => "the file has to be readable by the node's user",
        FileError::Yaml(YamlError::Invalid { .. }) => "correct the file at the place named",
    };
    kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid_file", "`twinshare.yaml` cannot be used", hint)
}

fn companion_kind(error: &CompanionError) -> Kind {
    let hint = match error {
        CompanionError::NotConfirmed { .. } => "look at it, and share the workspace again if it may be read",
        CompanionError::Disk { .. }
        | CompanionError::TooWide { .. }
        | CompanionError::NoHome { .. }
        | CompanionError::TooMany(_) => "change `companions` in the workspace's `twinshare.yaml`",
    };
    kind(StatusCode::UNPROCESSABLE_ENTITY, "unusable_companion", "Companion cannot be shared", hint)
}

pub(super) fn share_kind(error: &ShareError) -> Kind {
    match error {
        ShareError::Registry(error) => registry_kind(error),
        ShareError::Workspace(error) => workspace_kind(error),
        ShareError::Snapshot(error) => snapshot_kind(error),
    }
}

fn snapshot_kind(error: &SnapshotError) -> Kind {
    match error {
        SnapshotError::Workspace(error) => workspace_kind(error),
        SnapshotError::Registry(error) => registry_kind(error),
        SnapshotError::Busy | SnapshotError::Stopping => busy_node(),
        SnapshotError::Walk(_) | SnapshotError::Disk { .. } | SnapshotError::Open { .. } => internal(),
    }
}

pub(super) fn registry_kind(error: &RegistryError) -> Kind {
    match error {
        RegistryError::NameTaken { .. } => kind(
            StatusCode::CONFLICT,
            "name_taken",
            "Name is taken",
            "choose another one with `--name`, or remove the other workspace",
        ),
        RegistryError::DirectoryTaken { .. } => kind(
            StatusCode::CONFLICT,
            "directory_taken",
            "Directory is registered already",
            "use it under its name, or remove it first with `twinshare workspace rm NAME`",
        ),
        RegistryError::NoSuchWorkspace(_) => kind(
            StatusCode::NOT_FOUND,
            "no_such_workspace",
            "No such workspace",
            "`twinshare workspace list` shows those registered here",
        ),
        RegistryError::Damaged { .. } => kind(
            StatusCode::INTERNAL_SERVER_ERROR,
            "registry_unusable",
            "Registry cannot be used",
            "move the file away and restart the node; then register and share the workspaces again",
        ),
        RegistryError::Newer { .. } => kind(
            StatusCode::INTERNAL_SERVER_ERROR,
            "registry_unusable",
            "Registry cannot be used",
            "install the version of twinshare that was used here last, or a newer one",
        ),
        RegistryError::Crowded => busy_node(),
        RegistryError::Failed(_) | RegistryError::Closed => internal(),
    }
}

pub(super) fn plan_kind(error: &PlanError) -> Kind {
    match error {
        PlanError::NoCommand => kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_command",
            "No command",
            "name one after `--`, or set `command` of an environment in the workspace's `twinshare.yaml`",
        ),
        PlanError::Roots(_)
        | PlanError::NotPlain { .. }
        | PlanError::Reserved { .. }
        | PlanError::Inside { .. }
        | PlanError::Links { .. }
        | PlanError::Rebuild { .. }
        | PlanError::Crowded { .. } => kind(
            StatusCode::CONFLICT,
            "unplannable",
            "Cannot be run here",
            "its files can be used from the mount; only running at the origin's paths is not possible",
        ),
    }
}

fn busy_node() -> Kind {
    kind(StatusCode::SERVICE_UNAVAILABLE, "busy_node", "Node is busy", "try again in a moment")
}
