//! Places to run commands in, and commands that run there: as the caller and, where the caller is root, as an ordinary
//! user too.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, getuid};
use tempfile::TempDir;
use twinshare_daemon::runtime::{Caller, HostFacts, Request, RootBinding, ThisHost, plan};

/// Names the file with the plan to launch, in the process that launches it.
pub(crate) const PLAN: &str = "TWINSHARE_TEST_PLAN";
/// Names the executable with the step inside.
pub(crate) const PROGRAM: &str = "TWINSHARE_TEST_PROGRAM";
/// An ordinary user that exists nowhere else.
pub(crate) const USER: u32 = 54_321;

/// Who runs a command.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Who {
    Caller,
    User,
}

impl Who {
    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Caller => getuid().as_raw(),
            Self::User => USER,
        }
    }

    /// The caller, and an ordinary user if that is somebody else.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::Caller, Self::User].into_iter().filter(|who| *who == Self::Caller || getuid().is_root())
    }
}

/// A place with everything a run needs: `workspace`, `home`, and the programs where every user can start them.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
    who: Who,
    pub(crate) request: Request,
}

impl Place {
    /// A workspace that lay at `origin`, with these files in it.
    pub(crate) fn new(who: Who, origin: &str, files: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("twinshare-launch-").unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("workspace", 0o755), ("home", 0o700)] {
            fs::create_dir(path(name)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
            chown(path(name), Some(who.uid()), None).unwrap();
        }
        for (name, content) in files {
            fs::write(path("workspace").join(name), content).unwrap();
            fs::set_permissions(path("workspace").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        let workspace = RootBinding {
            host: text("workspace"),
            origin: origin.to_owned(),
            writable: false,
            also_at: None,
        };
        let request = Request {
            roots: vec![workspace],
            command: Vec::new(),
            environment: BTreeMap::new(),
            search: Vec::new(),
            directory: None,
            show_home: false,
            caller: Caller { uid: who.uid(), name: "somebody".to_owned(), home: text("home") },
            hidden: Vec::new(),
        };
        Self { directory, who, request }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command that launches `command`, not started yet.
    pub(crate) fn launcher(&self, command: &[&str]) -> Command {
        let mut request = self.request.clone();
        request.command = command.iter().map(|word| (*word).to_owned()).collect();
        let plan = plan(&request, &HostFacts::of_this_host(self.who.uid()), &ThisHost).unwrap();
        let file = self.path("plan.json");
        fs::write(&file, serde_json::to_vec(&plan).unwrap()).unwrap();
        let own = self.public(&env::current_exe().unwrap());
        let mut launcher = match self.who {
            Who::Caller => Command::new(own),
            Who::User => {
                let user = USER.to_string();
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]).arg(own);
                command
            }
        };
        launcher.args(["launcher", "--exact", "--nocapture", "--quiet"]);
        launcher.env(PLAN, file).env(PROGRAM, self.public(Path::new(env!("CARGO_BIN_EXE_twinshare"))));
        launcher.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        launcher
    }

    /// A copy of a program in a directory that every user may enter.
    pub(crate) fn public(&self, program: &Path) -> PathBuf {
        let copy = self.path(program.file_name().unwrap().to_str().unwrap());
        if !copy.exists() && fs::hard_link(program, &copy).is_err() {
            fs::copy(program, &copy).unwrap();
        }
        copy
    }

    pub(crate) fn run(&self, command: &[&str]) -> Ran {
        let output = self.launcher(command).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ran { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
    }

    pub(crate) fn shell(&self, script: &str) -> Ran {
        self.run(&["sh", "-c", script])
    }
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn prints(&self, expected: &str) -> &Self {
        assert!(self.status.success() && self.out.contains(expected), "{expected:?} in {self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn fails_with(&self, code: i32, message: &str) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        assert!(self.err.contains(message), "{message:?} in {self:#?}");
        self
    }
}

/// A launched command whose output is read as it comes.
pub(crate) struct Started {
    pub(crate) child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Started {
    pub(crate) fn new(place: &Place, script: &str) -> Self {
        let mut child = place.launcher(&["sh", "-c", script]).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Reads lines up to one that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.out.read_line(&mut line).unwrap(), 0, "no {text:?}");
        }
        line
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the end. Standard output ends only when nobody in the namespace holds it any more.
    pub(crate) fn end(mut self) -> ExitStatus {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap()
    }
}
