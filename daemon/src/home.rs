//! Where a node keeps its things: one set of directories per node, never shared with another.
//!
//! `TWINSHARE_HOME=H` puts everything under `H`, so several nodes can live on one machine or in one test. Otherwise
//! the XDG base directories are used. Sockets lie in the state directory, not in `XDG_RUNTIME_DIR`: a node outlives
//! the login it was started from, that directory does not, and a command run without the variable would look for the
//! node in another place than the node listens.
//!
//! Every directory is private (0700) and belongs to the user the node runs for; one that does not is refused rather
//! than repaired, since whoever could write to it may have put something there.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use twinshare_fs::manifest::SnapshotId;

mod lock;
mod others;
pub mod socket;

pub use lock::NodeLock;

/// Environment variable that isolates a node: everything of it lies under this directory.
pub const HOME_VARIABLE: &str = "TWINSHARE_HOME";

/// The directories of one node. Cheap to build; touches the disk only in [`prepare`](Self::prepare) and
/// [`lock`](Self::lock).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    state: PathBuf,
    cache: PathBuf,
    files: PathBuf,
    /// Where the nodes of a user leave word of their homes; nowhere where the user has no home directory.
    notes: Option<PathBuf>,
    variables: Vec<(&'static str, PathBuf)>,
}

/// Why a node cannot use its directories.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Nothing says where the user's files are.
    #[error("neither {HOME_VARIABLE} nor HOME is set to an absolute path: set one of them")]
    Unknown,
    /// The variable holds a path that each directory reads otherwise.
    #[error("{HOME_VARIABLE} is {}, which is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// Another user owns a directory.
    #[error("{path} belongs to user {owner}, not to user {user}: move it away, or set {HOME_VARIABLE}")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Others may enter a directory.
    #[error("{path} is open to other users (mode {mode:o}): `chmod 700 {path}` after checking what is in it")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A node already runs on this home.
    #[error("a node is already running here (pid {pid}): stop it with `twinshare p2p stop`")]
    Running {
        /// Its process.
        pid: u32,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Disk {
        /// What was being made or opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Home {
    /// The home that this process's environment names.
    pub fn from_environment() -> Result<Self, HomeError> {
        Self::resolve(|name| env::var_os(name))
    }

    /// The home under `directory`, isolated from every other one: it leaves no word for others either.
    pub fn isolated(directory: &Path) -> Self {
        Self {
            config: directory.join("config"),
            state: directory.join("state"),
            cache: directory.join("cache"),
            files: directory.join("files"),
            notes: None,
            variables: vec![(HOME_VARIABLE, directory.into())],
        }
    }

    /// The home that the variables name. Relative values of the XDG variables count as unset, as their specification
    /// demands; of [`HOME_VARIABLE`] one is an error, since commands given elsewhere would not find the node.
    pub fn resolve(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HomeError> {
        let path = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let notes = path("HOME").map(|home| others::directory(&home));
        if let Some(directory) = path(HOME_VARIABLE) {
            let mut home = Self::isolated(&directory);
            home.variables.extend(path("HOME").map(|user| ("HOME", user)));
            return Ok(Self { notes, ..home });
        }
        if let Some(relative) = variable(HOME_VARIABLE).filter(|value| !value.is_empty()) {
            return Err(HomeError::Relative(relative.into()));
        }
        let home = path("HOME").ok_or(HomeError::Unknown)?;
        let xdg = |name, fallback| path(name).unwrap_or_else(|| home.join(fallback));
        let [config, state, cache] = [
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_STATE_HOME", ".local/state"),
            ("XDG_CACHE_HOME", ".cache"),
        ]
        .map(|(name, fallback)| (name, xdg(name, fallback)));
        Ok(Self {
            config: config.1.join("twinshare"),
            state: state.1.join("twinshare"),
            cache: cache.1.join("twinshare"),
            files: home.join("twinshare"),
            notes,
            variables: vec![(HOME_VARIABLE, PathBuf::new()), ("HOME", home), config, state, cache],
        })
    }

    /// The environment variables by which another process finds this home, whatever it inherits.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_path()))
    }

    /// Creates the directories that are missing and checks those that exist.
    pub fn prepare(&self) -> Result<(), HomeError> {
        for private in [&self.config, &self.state, &self.cache] {
            make_private(private)?;
        }
        for private in [self.run(), self.snapshots(), self.replicas()] {
            make_private(&private)?;
        }
        Ok(())
    }

    /// The directories that hold the node's own things: never walked, shared or mounted over.
    pub fn own_directories(&self) -> [&Path; 3] {
        [&self.config, &self.state, &self.cache]
    }

    /// Where its state lies: the key, the registry, the log, the sockets.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The configuration file, which need not exist.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.yaml")
    }

    /// The node's private key. Not beside the configuration: people copy that one between machines.
    pub fn identity_key(&self) -> PathBuf {
        self.state.join("identity.key")
    }

    /// The registry's database.
    pub fn registry(&self) -> PathBuf {
        self.state.join("registry.db")
    }

    /// The node's log.
    pub fn log(&self) -> PathBuf {
        self.state.join("node.log")
    }

    /// The file whose lock says that a node runs.
    pub fn lock_file(&self) -> PathBuf {
        self.state.join("node.lock")
    }

    /// Where sockets are.
    pub fn run(&self) -> PathBuf {
        self.state.join("run")
    }

    /// The socket on which the node answers the command line.
    pub fn api_socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    /// Where frozen manifests are kept, one directory a snapshot.
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// The directory of one snapshot.
    pub fn snapshot(&self, id: SnapshotId) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    /// Where the node keeps what it knows of its replicas, one directory a replica.
    pub fn replicas(&self) -> PathBuf {
        self.state.join("replicas")
    }

    /// The directory of one replica; `id` is a plain name.
    pub fn replica(&self, id: impl std::fmt::Display) -> PathBuf {
        self.replicas().join(id.to_string())
    }

    /// Where data lies that can be fetched again.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where workspaces of peers appear unless the user names another place.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Where a view of a peer's workspace appears by default. Both names are plain names.
    pub fn view_mount_point(&self, peer: &str, workspace: &str) -> PathBuf {
        self.files.join("peers").join(peer).join(workspace)
    }
}

fn make_private(path: &Path) -> Result<(), HomeError> {
    let disk = |source| HomeError::Disk { path: path.into(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(disk)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(disk(error)),
        _ => {}
    }
    check_private(path, &fs::metadata(path).map_err(disk)?)
}

fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), HomeError> {
    let user = rustix::process::geteuid().as_raw();
    let mode = metadata.permissions().mode() & 0o777;
    match metadata {
        _ if !metadata.is_dir() => {
            Err(HomeError::Disk { path: path.into(), source: io::ErrorKind::NotADirectory.into() })
        }
        _ if metadata.uid() != user => {
            Err(HomeError::NotOurs { path: path.into(), owner: metadata.uid(), user })
        }
        _ if mode & 0o077 != 0 => Err(HomeError::NotPrivate { path: path.into(), mode }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expected: Option<[&str; 4]>) {
        let home = Home::resolve(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
        });
        let paths = home.ok().map(|home| [home.config, home.state, home.cache, home.files]);
        assert_eq!(paths, expected.map(|paths| paths.map(PathBuf::from)), "{variables:?}");
    }

    #[test]
    fn the_environment_names_the_directories() {
        let plain =
            ["/u/.config/twinshare", "/u/.local/state/twinshare", "/u/.cache/twinshare", "/u/twinshare"];
        check(&[("HOME", "/u")], Some(plain));
        check(&[("HOME", "/u"), ("XDG_STATE_HOME", "relative"), (HOME_VARIABLE, "")], Some(plain));
        check(
            &[
                ("HOME", "/u"),
                ("XDG_STATE_HOME", "/s"),
                ("XDG_CONFIG_HOME", "/c"),
                ("XDG_CACHE_HOME", "/k"),
                ("XDG_RUNTIME_DIR", "/r"),
            ],
            Some(["/c/twinshare", "/s/twinshare", "/k/twinshare", "/u/twinshare"]),
        );
        check(
            &[("HOME", "/u"), ("XDG_STATE_HOME", "/s"), (HOME_VARIABLE, "/h")],
            Some(["/h/config", "/h/state", "/h/cache", "/h/files"]),
        );
        check(&[], None);
        check(&[("HOME", "u")], None);
        check(&[("HOME", "/u"), (HOME_VARIABLE, "h")], None);
    }

    #[test]
    fn a_relative_home_is_named() {
        let error = Home::resolve(|name| (name == HOME_VARIABLE).then(|| "two/h".into())).unwrap_err();
        assert_eq!(error.to_string(), "TWINSHARE_HOME is two/h, which is not an absolute path");
    }

    #[test]
    fn its_variables_lead_another_process_to_it() {
        let environments: [&[(&str, &str)]; 3] =
            [&[("HOME", "/u")], &[("HOME", "/u"), ("XDG_STATE_HOME", "/s")], &[(HOME_VARIABLE, "/h")]];
        for environment in environments {
            let of =
                |wanted: &str| environment.iter().find(|(name, _)| *name == wanted).map(|(_, v)| v.into());
            let home = Home::resolve(of).unwrap();
            // The other process has inherited an isolated home.
            let inherited = |name: &str| (name == HOME_VARIABLE).then(|| "/other".into());
            let passed: Vec<_> = home.variables().collect();
            let found = Home::resolve(|name| {
                let passed = passed.iter().find(|(passed, _)| *passed == name);
                passed.map(|(_, value)| value.as_os_str().to_owned()).or_else(|| inherited(name))
            });
            assert_eq!(found.unwrap(), home);
        }
    }

    #[test]
    fn directories_are_private_or_refused() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(base.path());
        home.prepare().unwrap();
        home.prepare().unwrap();
        for path in [home.run(), home.snapshots(), home.replicas(), home.config.clone()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        fs::set_permissions(&home.state, fs::Permissions::from_mode(0o750)).unwrap();
        let error = home.prepare().unwrap_err();
        assert!(matches!(error, HomeError::NotPrivate { mode: 0o750, .. }), "{error}");
    }
}
