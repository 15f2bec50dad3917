//! The public Rust client of a node: everything a program (the command line among them) asks a node for.
//!
//! One method per request, named after what it asks. A [`Client`] holds no connection: each request opens one on
//! the node's socket (some 50 µs), so that a client outlives restarts of its node and no request waits for another.
//! Every request has a deadline, and all methods are cancel-safe: dropping one closes its connection. What the node
//! had begun by then (an [`Operation`] above all) goes on.

mod connection;
mod error;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::wire::{
    AddPeer, Cache, Check, CloneRequest, CreateWorkspace, CreatedWorkspace, Health, List, MountRequest,
    NodeStatus, Operation, Peer, Pin, PinRequest, PruneRequest, Pruned, RemoteWorkspaces, Replica,
    ResolveRequest, Resolved, RunRequest, Share, ShareRequest, Version, Why, Workspace, WorkspaceDetails,
};
use crate::runtime::Plan;
use connection::Call;
pub use error::ClientError;

/// How long a request may take that waits for nobody but the node.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The longest the node holds a request that waits for an operation.
pub const LONG_POLL_MAX: Duration = Duration::from_secs(60);

/// Speaks to the node behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Result of every request.
pub type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client of the node whose API socket lies at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the node is there and ready.
    pub async fn health(&self) -> Result<Health> {
        self.read("/health").await
    }

    /// The versions it speaks.
    pub async fn version(&self) -> Result<Version> {
        self.read("/version").await
    }

    /// The OpenAPI document of the node's interface.
    pub async fn openapi(&self) -> Result<serde_json::Value> {
        self.read("/openapi.json").await
    }

    /// Who the node is and what it holds.
    pub async fn node(&self) -> Result<NodeStatus> {
        self.read("/node").await
    }

    /// Asks the node to stop. It answers before it does; its socket is gone when it has stopped.
    pub async fn stop_node(&self) -> Result<()> {
        self.call(Method::POST, "/node/stop").await
    }

    /// What the node finds wrong with its surroundings.
    pub async fn doctor(&self) -> Result<Vec<Check>> {
        self.list("/doctor").await
    }

    /// Peers that were found or are remembered; those online first, then by name.
    pub async fn peers(&self) -> Result<Vec<Peer>> {
        self.list("/peers").await
    }

    /// The same after asking the network who is there, and waiting a moment for the answers.
    pub async fn discover(&self) -> Result<Vec<Peer>> {
        self.list("/peers?ask=true").await
    }

    /// Greets the node at an address (`host[:port]`) and remembers it.
    pub async fn add_peer(&self, address: &str) -> Result<Peer> {
        self.send(Method::POST, "/peers", &AddPeer { address: address.to_owned() }).await
    }

    /// Workspaces registered here, by name.
    pub async fn workspaces(&self) -> Result<Vec<Workspace>> {
        self.list("/workspaces").await
    }

    /// Registers a directory as a workspace.
    pub async fn create_workspace(&self, request: &CreateWorkspace) -> Result<CreatedWorkspace> {
        self.send(Method::POST, "/workspaces", request).await
    }

    /// One workspace with its configuration.
    pub async fn workspace(&self, name: &str) -> Result<WorkspaceDetails> {
        self.read(&path(["workspaces", name])).await
    }

    /// Forgets a workspace and ends its share. Its directory is left as it is.
    pub async fn remove_workspace(&self, name: &str) -> Result<()> {
        self.call(Method::DELETE, &path(["workspaces", name])).await
    }

    /// Offers a workspace, or changes how it is offered.
    pub async fn share_workspace(&self, name: &str, open: Option<bool>) -> Result<Share> {
        self.send(Method::PUT, &path(["workspaces", name, "share"]), &ShareRequest { open }).await
    }

    /// Ends a share: peers that use it lose it at once.
    pub async fn unshare_workspace(&self, name: &str) -> Result<()> {
        self.call(Method::DELETE, &path(["workspaces", name, "share"])).await
    }

    /// What the reachable peers offer, of one name or one peer (name, short id or id) if given.
    pub async fn remote_workspaces(
        &self,
        name: Option<&str>,
        peer: Option<&str>,
    ) -> Result<RemoteWorkspaces> {
        self.read(&query("/remote-workspaces", &[("name", name), ("peer", peer)])).await
    }

    /// Begins to mount a peer's workspace; the operation's result is the mount.
    pub async fn mount(&self, request: &MountRequest) -> Result<Operation> {
        self.send(Method::POST, "/mounts", request).await
    }

    /// The views mounted here, oldest first.
    pub async fn mounts(&self) -> Result<Vec<Replica>> {
        self.list("/mounts").await
    }

    /// One mounted view.
    pub async fn mount_status(&self, id: &str) -> Result<Replica> {
        self.read(&path(["mounts", id])).await
    }

    /// Unmounts a view; a problem `busy` names who uses it.
    pub async fn unmount(&self, id: &str) -> Result<()> {
        self.call(Method::DELETE, &path(["mounts", id])).await
    }

    /// Begins to clone a peer's workspace; the operation's result is the clone.
    pub async fn clone_workspace(&self, request: &CloneRequest) -> Result<Operation> {
        self.send(Method::POST, "/clones", request).await
    }

    /// The clones here, oldest first.
    pub async fn clones(&self) -> Result<Vec<Replica>> {
        self.list("/clones").await
    }

    /// One clone.
    pub async fn clone_status(&self, id: &str) -> Result<Replica> {
        self.read(&path(["clones", id])).await
    }

    /// Has a complete clone become an ordinary directory now. A problem `busy` names who uses it.
    pub async fn settle_clone(&self, id: &str) -> Result<Replica> {
        Call::new(Method::POST, &path(["clones", id, "settle"])).answer(&self.socket).await
    }

    /// Unmounts a clone and forgets it; what an unfinished one has fetched goes with it. A problem `busy` names who
    /// uses it.
    pub async fn remove_clone(&self, id: &str) -> Result<()> {
        self.call(Method::DELETE, &path(["clones", id])).await
    }

    /// What the content of mounts takes on the disk.
    pub async fn cache(&self) -> Result<Cache> {
        self.read("/cache").await
    }

    /// Evicts content of mounts that is neither open nor pinned. An answer that is not `done` wants to be asked for again.
    pub async fn prune_cache(&self, request: &PruneRequest) -> Result<Pruned> {
        self.send(Method::POST, "/cache/prune", request).await
    }

    /// What is pinned, by path.
    pub async fn pins(&self) -> Result<Vec<Pin>> {
        self.list("/pins").await
    }

    /// Pins an absolute path in a mount.
    pub async fn pin(&self, path: &str) -> Result<Pin> {
        self.send(Method::POST, "/pins", &PinRequest { path: path.to_owned() }).await
    }

    /// Removes the pin of an absolute path.
    pub async fn unpin(&self, path: &str) -> Result<()> {
        self.call(Method::DELETE, &query("/pins", &[("path", Some(path))])).await
    }

    /// What is known of an absolute path in a workspace, mount or clone.
    pub async fn why(&self, path: &str) -> Result<Why> {
        self.read(&query("/why", &[("path", Some(path))])).await
    }

    /// Decides which version is kept of a file that changed both in a clone and at its peer; without a decision, tells what
    /// would be decided about.
    pub async fn resolve(&self, request: &ResolveRequest) -> Result<Resolved> {
        self.send(Method::POST, "/resolve", request).await
    }

    /// How to run a command in a workspace; the caller then does it.
    pub async fn plan_run(&self, request: &RunRequest) -> Result<Plan> {
        self.send(Method::POST, "/runs", request).await
    }

    /// Operations running and lately finished, oldest first.
    pub async fn operations(&self) -> Result<Vec<Operation>> {
        self.list("/operations").await
    }

    /// One operation as it is now.
    pub async fn operation(&self, id: &str) -> Result<Operation> {
        self.read(&path(["operations", id])).await
    }

    /// One operation once it has changed since `since` (without: once it has ended), or after `wait`, of which the
    /// node grants [`LONG_POLL_MAX`] at most.
    pub async fn wait_operation(&self, id: &str, since: Option<u64>, wait: Duration) -> Result<Operation> {
        let wait = wait.min(LONG_POLL_MAX);
        let (since, seconds) = (since.map(|n| n.to_string()), wait.as_secs().to_string());
        let target = query(
            &path(["operations", id]),
            &[("wait", Some(seconds.as_str())), ("since", since.as_deref())],
        );
        Call::new(Method::GET, &target).within(wait + ANSWER_WITHIN).answer(&self.socket).await
    }

    /// Follows an operation to its end and hands every new state of it to `watch`.
    ///
    /// An operation that failed or was cancelled is an answer here, not an error. There is no deadline: operations
    /// end by themselves. To give up, drop the future and [cancel](Self::cancel_operation).
    pub async fn follow_operation(
        &self,
        begun: Operation,
        mut watch: impl FnMut(&Operation),
    ) -> Result<Operation> {
        let mut now = begun;
        while !now.state.is_final() {
            watch(&now);
            now = self.wait_operation(&now.id, Some(now.revision), LONG_POLL_MAX).await?;
        }
        watch(&now);
        Ok(now)
    }

    /// Asks an operation to end early and undo what it began.
    pub async fn cancel_operation(&self, id: &str) -> Result<Operation> {
        Call::new(Method::DELETE, &path(["operations", id])).answer(&self.socket).await
    }

    async fn read<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        Call::new(Method::GET, target).answer(&self.socket).await
    }

    async fn list<T: DeserializeOwned>(&self, target: &str) -> Result<Vec<T>> {
        self.read::<List<T>>(target).await.map(|list| list.items)
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: &B,
    ) -> Result<T> {
        Call::new(method, target).body(body)?.answer(&self.socket).await
    }

    async fn call(&self, method: Method, target: &str) -> Result<()> {
        Call::new(method, target).done(&self.socket).await
    }
}

/// A path of segments, each percent-encoded.
fn path<const N: usize>(segments: [&str; N]) -> String {
    segments.iter().map(|segment| format!("/{}", encode(segment))).collect()
}

/// `path` with the parameters that have a value.
fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode((*value)?))));
    match given.collect::<Vec<_>>().join("&") {
        none if none.is_empty() => path.to_owned(),
        given => format!("{path}?{given}"),
    }
}

/// Percent-encoding of everything but the unreserved characters of RFC 3986, section 2.3.
fn encode(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match unreserved(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
