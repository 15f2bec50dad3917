//! `/workspaces`: what is registered here, and how it is shared.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::{Body, Path};
use super::may_end::problems;
use super::replicas::absolute;
use super::routes::Shared;
use super::wire::{
    Companion, CreateWorkspace, CreatedWorkspace, LeavingLink, List, ReplicaKind, ReplicaState, Requirement,
    Share, Workspace, WorkspaceDetails,
};
use crate::registry::{RegistryError, ShareMode, ShareRecord, WorkspaceRecord};
use crate::workspace::{self, Created, WorkspaceFile, WorkspaceName};

/// Workspaces registered here, by name.
#[utoipa::path(get, path = "/workspaces", tag = "workspaces", responses(
    (status = 200, description = "All of them", body = List<Workspace>),
))]
pub(super) async fn list(State(node): State<Shared>) -> Result<Json<List<Workspace>>, ApiError> {
    let records = node.registry().call(|tables| tables.workspaces()).await?;
    let summaries = blocking(move || {
        // A file that cannot be read is told of where the workspace itself is asked for.
        let description =
            |record: &WorkspaceRecord| WorkspaceFile::load(&record.directory).ok().map(|f| f.description);
        Ok(records.iter().map(|record| summary(record, description(record))).collect::<Vec<_>>())
    });
    Ok(Json(summaries.await?.into()))
}

problems! {
    /// Of a request to register a workspace.
    NotCreated {
        409: "`name_taken`, `directory_taken`, `is_clone`",
        422: "`invalid_name`, `relative_path`, `unusable_place`, `invalid_file`",
    }
}

/// Registers a directory as a workspace. Its `twinshare.yaml` is written where there is none, and with it what was
/// found that belongs to the workspace. Doing it again changes nothing.
#[utoipa::path(post, path = "/workspaces", tag = "workspaces", request_body = CreateWorkspace,
    responses(
        (status = 201, description = "Registered", body = CreatedWorkspace),
        NotCreated,
    ),
)]
pub(super) async fn create(
    State(node): State<Shared>,
    Body(asked): Body<CreateWorkspace>,
) -> Result<(StatusCode, Json<CreatedWorkspace>), ApiError> {
    let directory = absolute(asked.directory)?;
    let name = asked.name.map(|name| name.parse()).transpose()?;
    refuse_clone(&node, &directory).await?;
    let created = workspace::create(node.home(), node.registry(), &directory, name).await?;
    Ok((StatusCode::CREATED, Json(created_document(created)?)))
}

/// A settled clone is known here already. Beside it a workspace of the same directory could not be told from it, and what
/// its file names as companions does not lie there on this machine.
async fn refuse_clone(node: &Shared, directory: &std::path::Path) -> Result<(), ApiError> {
    let asked = directory.to_owned();
    // What cannot be looked at is refused with the reason by whoever makes the workspace.
    let real = blocking(move || Ok(asked.canonicalize().unwrap_or(asked))).await?;
    let clones = node.replicas().list(ReplicaKind::Clone).await.into_iter();
    let mut settled = clones.filter(|clone| clone.state == ReplicaState::Settled);
    let Some(clone) = settled.find(|clone| std::path::Path::new(&clone.directory) == real) else {
        return Ok(());
    };
    let peer = clone.peer.name.as_deref().unwrap_or(&clone.peer.short_id);
    Err(ApiError::IsClone {
        workspace: format!("{peer}/{}", clone.workspace),
        companions: clone.roots.len().saturating_sub(1),
        directory: clone.directory,
    })
}

problems! {
    /// Of a request for what a workspace says.
    NotShown {
        404: "`no_such_workspace`",
        422: "`invalid_file`, `unusable_companion`",
    }
}

/// One workspace with its configuration, its companions and what it needs from outside.
#[utoipa::path(get, path = "/workspaces/{name}", tag = "workspaces",
    params(("name" = String, Path, description = "The workspace")),
    responses(
        (status = 200, description = "As it is on disk now", body = WorkspaceDetails),
        NotShown,
    ),
)]
pub(super) async fn show(
    State(node): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<WorkspaceDetails>, ApiError> {
    let record = find(&node, &name).await?;
    let home = node.home().clone();
    let details = blocking(move || {
        let loaded = workspace::Workspace::load(&record)?;
        let roots = loaded.roots(&home)?;
        let companions =
            roots.iter().skip(1).map(|path| Companion { path: text(path), reason: None }).collect();
        let requirements = loaded.requirements(&home)?;
        details(&record, &loaded.file, companions, requirements)
    });
    Ok(Json(details.await?))
}

/// What cannot be a name names nothing here.
pub(super) fn parse(name: &str) -> Result<WorkspaceName, ApiError> {
    name.parse().map_err(|_| RegistryError::NoSuchWorkspace(name.to_owned()).into())
}

async fn find(node: &Shared, name: &str) -> Result<WorkspaceRecord, ApiError> {
    let wanted = parse(name)?;
    let found = node.registry().call(move |tables| tables.workspace(&wanted)).await?;
    found.ok_or_else(|| RegistryError::NoSuchWorkspace(name.to_owned()).into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

fn summary(record: &WorkspaceRecord, description: Option<String>) -> Workspace {
    Workspace {
        name: record.name.to_string(),
        directory: text(&record.directory),
        description: description.filter(|text| !text.is_empty()),
        created_at: record.created.into(),
        share: record.share.as_ref().map(share_document),
    }
}

pub(super) fn share_document(share: &ShareRecord) -> Share {
    let companions = share.companions.iter().map(|path| text(path)).collect();
    Share { open: share.mode == ShareMode::Open, since: share.since.into(), companions }
}

fn details(
    record: &WorkspaceRecord,
    file: &WorkspaceFile,
    companions: Vec<Companion>,
    requirements: Vec<workspace::Requirement>,
) -> Result<WorkspaceDetails, ApiError> {
    let requirement =
        |needed: workspace::Requirement| Requirement { path: text(&needed.path), reason: needed.why };
    Ok(WorkspaceDetails {
        workspace: summary(record, Some(file.description.clone())),
        config: serde_json::to_value(file).map_err(ApiError::internal)?,
        companions,
        requirements: requirements.into_iter().map(requirement).collect(),
    })
}

fn created_document(created: Created) -> Result<CreatedWorkspace, ApiError> {
    let Created { record, file, file_written, detected, requirements } = created;
    let reason = |path: &str| {
        let found = detected.companions.iter().find(|found| found.path.to_str() == Some(path));
        found.map(|found| found.why.clone())
    };
    let companion = |path: &str| Companion { path: path.to_owned(), reason: reason(path) };
    let companions = file.companions.iter().map(|path| companion(path.as_str())).collect();
    let leaving = detected.leaving.iter();
    let leaving = leaving.map(|found| LeavingLink { link: text(&found.link), target: text(&found.target) });
    Ok(CreatedWorkspace {
        details: details(&record, &file, companions, requirements)?,
        file_written,
        leaving: leaving.collect(),
        complete: detected.complete,
    })
}

/// For people: what is not UTF-8 is replaced.
fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
