//! `/runs`: how to run a command in a workspace. The node plans; whoever asked carries it out on its own terminal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::ApiError;
use super::extract::Body;
use super::may_end::problems;
use super::routes::Shared;
use super::wire::RunRequest;
use crate::home::Home;
use crate::node::{LocalWorkspace, User};
use crate::runtime::{self, Plan, Request, RootBinding};
use crate::workspace::{
    Environment, FileError, Requirement, Root, Roots, WorkspaceError, WorkspaceFile, requirements,
};

/// How long a run waits for what its workspace needs from this machine: some small files of virtual environments.
const REQUIREMENTS_WITHIN: Duration = Duration::from_secs(5);

problems! {
    /// Of a request for a plan.
    NotPlanned {
        404: "`not_here`, `not_in_workspace`",
        409: "`ambiguous_name`, with `candidates`; `not_served`, `not_read`, `unplannable`",
        422: "`no_command`, `invalid_file`",
    }
}

/// Plans a run. Nothing is started and nothing is kept.
#[utoipa::path(post, path = "/runs", tag = "runs", request_body = RunRequest,
    responses(
        (status = 200, description = "The plan", body = Plan),
        NotPlanned,
    ),
)]
pub(super) async fn plan(
    State(node): State<Shared>,
    Body(asked): Body<RunRequest>,
) -> Result<Json<Plan>, ApiError> {
    let local = node.local(&asked.workspace).await?;
    let directory = local.roots.first().map(|root| root.here.to_string_lossy().into_owned());
    let planned = tokio::time::timeout(PLAN_WITHIN, planned(asked, local, node.home().clone())).await;
    let late =
        || ApiError::NotRead { directory: directory.unwrap_or_default(), within_s: PLAN_WITHIN.as_secs() };
    planned.unwrap_or_else(|_elapsed| Err(late())).map(Json)
}

/// How long a plan may take, the wait for its turn included. Less than a request may last.
const PLAN_WITHIN: Duration = Duration::from_secs(20);

/// Plans at a time. A thread that reads through a mount waits for the peer as long as the mount's own rule says, and
/// cannot be called back: this many may be lost so, and the node's other blocking work goes on.
static PLANNING: Semaphore = Semaphore::const_new(PLANS_MAX);
const PLANS_MAX: usize = 4;

/// A plan's turn, which ends when the last of its threads does.
type Turn = Arc<SemaphorePermit<'static>>;

async fn planned(asked: RunRequest, local: LocalWorkspace, home: Home) -> Result<Plan, ApiError> {
    let turn = Arc::new(PLANNING.acquire().await.map_err(ApiError::internal)?);
    // What is visible at a second place too is looked up there.
    let second = local.roots.iter().take(local.also_here).map(|root| Root::in_place(root.here.clone()));
    let roots = Roots::new(local.roots.iter().cloned().chain(second));
    let planning = tokio::spawn(working(&turn, move || request(&asked, &local, &home)));
    // Meanwhile: both wait for the same peer. The plan is good without it, so a slow peer does not hold it up.
    let looking = tokio::spawn(working(&turn, move || Ok(requirements(&roots))));
    let request = planning.await.map_err(ApiError::internal)??;
    let required = match tokio::time::timeout(REQUIREMENTS_WITHIN, looking).await {
        Ok(found) => Some(paths(found.map_err(ApiError::internal)??)),
        Err(_elapsed) => None,
    };
    working(&turn, move || Ok(runtime::prepare(&request, required.as_deref())?)).await
}

/// Runs what may wait for a peer on a thread of its own.
fn working<T: Send + 'static>(
    turn: &Turn,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> impl Future<Output = Result<T, ApiError>> + Send + 'static {
    let turn = turn.clone();
    async move {
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
    }
}

fn paths(required: Vec<Requirement>) -> Vec<(String, String)> {
    required.into_iter().map(|needed| (needed.path.to_string_lossy().into_owned(), needed.why)).collect()
}

fn request(asked: &RunRequest, local: &LocalWorkspace, home: &Home) -> Result<Request, ApiError> {
    let environment = environment(local)?;
    let user = User::of_this_process();
    let (command, variables) = match environment {
        Some(Environment { command, env, .. }) => (command, env),
        None => Default::default(),
    };
    let (search, variables) = activated(local.roots.first(), variables)?;
    let command = match (asked.shell, asked.command.is_empty()) {
        (true, _) => vec![user.shell],
        (false, false) => asked.command.clone(),
        (false, true) => command,
    };
    let mut roots = Vec::new();
    for (place, root) in local.roots.iter().enumerate() {
        let writable = place == 0 && local.writable;
        let host = text(&root.here)?;
        let also_at = (place < local.also_here).then(|| host.clone());
        roots.push(RootBinding { host, origin: text(&root.origin)?, writable, also_at });
    }
    Ok(Request {
        roots,
        command,
        environment: variables,
        search,
        directory: local.start.as_deref().map(text).transpose()?,
        show_home: asked.home,
        caller: user.caller,
        hidden: home.directories_of_nodes().iter().map(|path| text(path)).collect::<Result<_, _>>()?,
    })
}

/// The first environment that the workspace's file describes. A workspace without a file has none.
fn environment(local: &LocalWorkspace) -> Result<Option<Environment>, ApiError> {
    let Some(top) = local.roots.first() else { return Ok(None) };
    match WorkspaceFile::load(&top.here) {
        Ok(file) => Ok(file.environments.into_iter().next()),
        Err(FileError::Missing { .. }) => Ok(None),
        Err(error) => Err(WorkspaceError::from(error).into()),
    }
}

/// Where virtual environments lie by custom, below a workspace's top.
const ENVIRONMENTS: [&str; 2] = [".venv", "venv"];

/// What activating the workspace's own virtual environment does: its programs are found first, and `VIRTUAL_ENV` names
/// it unless the workspace's file says otherwise.
fn activated(
    top: Option<&Root>,
    mut variables: BTreeMap<String, String>,
) -> Result<(Vec<String>, BTreeMap<String, String>), ApiError> {
    let own = top.and_then(|top| {
        let name = ENVIRONMENTS.into_iter().find(|name| top.here.join(name).join("pyvenv.cfg").is_file())?;
        Some(top.origin.join(name))
    });
    let Some(own) = own else { return Ok((Vec::new(), variables)) };
    let search = vec![text(&own.join("bin"))?];
    variables.entry("VIRTUAL_ENV".to_owned()).or_insert(text(&own)?);
    Ok((search, variables))
}

fn text(path: &Path) -> Result<String, ApiError> {
    path.to_str().map(str::to_owned).ok_or_else(|| ApiError::NotUtf8(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspaces_own_environment_is_active() {
        let base = tempfile::tempdir().unwrap();
        let top = Root { origin: "/w".into(), here: base.path().into() };
        let active = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            activated(Some(&top), variables.collect()).unwrap()
        };
        assert_eq!(active(&[]), Default::default());
        std::fs::create_dir(base.path().join("venv")).unwrap();
        assert_eq!(active(&[]), Default::default());
        std::fs::write(base.path().join("venv/pyvenv.cfg"), "").unwrap();
        let (search, variables) = active(&[]);
        assert_eq!(
            (search, &variables["VIRTUAL_ENV"]),
            (vec!["/w/venv/bin".to_owned()], &"/w/venv".to_owned())
        );
        assert_eq!(active(&[("VIRTUAL_ENV", "/x")]).1["VIRTUAL_ENV"], "/x");
    }
}
