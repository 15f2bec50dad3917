//! Runs carried out for real: bubblewrap, Landlock, signals and terminals, as the caller and, where the caller is
//! root, as an ordinary user too. The roots are ordinary directories.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process, test_kill_process};
use tempfile::TempDir;
use twinshare_daemon::runtime::launch::{LaunchError, launch};
use twinshare_daemon::runtime::{Caller, HostFacts, Plan, Request, RootBinding, ThisHost, plan};

/// Names the file with the plan to launch, in the process that launches it.
const PLAN: &str = "TWINSHARE_TEST_PLAN";
/// Names the executable with the step inside.
const PROGRAM: &str = "TWINSHARE_TEST_PROGRAM";
/// An ordinary user that exists nowhere else.
const USER: u32 = 54_321;

/// The launching process: this test binary, started again.
#[test]
fn launcher() {
    let Some(path) = env::var_os(PLAN) else { return };
    let plan: Plan = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let program = PathBuf::from(env::var_os(PROGRAM).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let code = runtime.block_on(launch(&plan, program, |level| eprintln!("level: {level}")));
    std::process::exit(match code {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("{error}");
            match error {
                LaunchError::NotFound { .. } => 127,
                LaunchError::NotRunnable { .. } => 126,
                _ => 125,
            }
        }
    });
}

/// Who runs a command.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Caller,
    User,
}

impl Who {
    fn uid(self) -> u32 {
        match self {
            Self::Caller => getuid().as_raw(),
            Self::User => USER,
        }
    }

    /// The caller, and an ordinary user if that is somebody else.
    fn all() -> impl Iterator<Item = Self> {
        [Self::Caller, Self::User].into_iter().filter(|who| *who == Self::Caller || getuid().is_root())
    }
}

/// A place with everything a run needs: `workspace`, `home`, and the programs where every user can start them.
struct Place {
    directory: TempDir,
    who: Who,
    request: Request,
}

impl Place {
    /// A workspace that lay at `origin`, with these files in it.
    fn new(who: Who, origin: &str, files: &[(&str, &str)]) -> Self {
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
        let workspace = RootBinding { host: text("workspace"), origin: origin.to_owned(), writable: false };
        let request = Request {
            roots: vec![workspace],
            also_at: None,
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

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command that launches `command`, not started yet.
    fn launcher(&self, command: &[&str]) -> Command {
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
    fn public(&self, program: &Path) -> PathBuf {
        let copy = self.path(program.file_name().unwrap().to_str().unwrap());
        if !copy.exists() && fs::hard_link(program, &copy).is_err() {
            fs::copy(program, &copy).unwrap();
        }
        copy
    }

    fn run(&self, command: &[&str]) -> Ran {
        let output = self.launcher(command).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ran { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn shell(&self, script: &str) -> Ran {
        self.run(&["sh", "-c", script])
    }
}

#[derive(Debug)]
struct Ran {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn prints(&self, expected: &str) -> &Self {
        assert!(self.status.success() && self.out.contains(expected), "{expected:?} in {self:#?}");
        self
    }

    #[track_caller]
    fn fails_with(&self, code: i32, message: &str) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        assert!(self.err.contains(message), "{message:?} in {self:#?}");
        self
    }
}

#[test]
fn the_exit_code_is_the_commands() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[("lost", "#!/nowhere/sh\n")]);
        place.shell("exit 7").fails_with(7, "level: ");
        place.shell("kill -TERM $$").fails_with(143, "");
        place.shell("kill -KILL $$").fails_with(137, "");
        place.run(&["no-such-command"]).fails_with(127, "no-such-command: no such command");
        place.run(&["./lost"]).fails_with(127, "./lost: its interpreter is missing");
        place.run(&["/etc"]).fails_with(126, "/etc cannot be run: Permission denied");
    }
}

#[test]
fn the_level_is_told_before_the_first_output() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let ran =
            place.shell("echo first >&2; ulimit -c; grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/self/status");
        ran.prints("NoNewPrivs:\t1").prints("CapEff:\t0000000000000000").prints("Seccomp:\t2").prints("0\n");
        let level = "level: user, mount, pid and ipc namespaces; Landlock ABI ";
        let (announced, first) = (ran.err.find(level), ran.err.find("first\n"));
        assert!(announced.is_some() && announced < first, "{ran:#?}");
    }
}

#[test]
fn an_environment_runs_at_the_path_it_was_made_at() {
    for (who, parent) in Who::all().flat_map(|who| [(who, "/tmp"), (who, "/opt/x/y"), (who, "/home/alice")]) {
        let made = TempDir::with_prefix("twinshare-venv-").unwrap();
        let name = made.path().file_name().unwrap().to_str().unwrap();
        // Made in /tmp; the other parents stand in its files in place of /tmp.
        let origin = format!("{parent}/{name}");
        let mut place = Place::new(who, &origin, &[]);
        let venv = made.path().join(".venv");
        let status =
            Command::new("/usr/bin/python3").args(["-m", "venv", "--without-pip"]).arg(&venv).status();
        assert!(status.unwrap().success());
        fs::write(
            venv.join("bin/tool"),
            format!("#!{origin}/.venv/bin/python\nimport sys; print(sys.prefix)\n"),
        )
        .unwrap();
        fs::set_permissions(venv.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&venv, place.path("workspace/.venv")).unwrap();
        drop(made);
        place.request.search = vec![format!("{origin}/.venv/bin")];
        let expected = format!("{origin}/.venv\n");
        place.run(&["tool"]).prints(&expected);
        place.run(&["python", "-c", "import sys; print(sys.prefix)"]).prints(&expected);
        place.shell("pwd").prints(&format!("{origin}\n"));
        assert!(!Path::new(&origin).exists());
    }
}

#[test]
fn changes_stay_inside() {
    for who in Who::all() {
        let mut place = Place::new(who, "/home/alice/ws", &[("file", "content\n")]);
        let refused = "for f in /usr/x /etc/x /opt/x /run/x /var/x /home/x /x ./x; do touch $f 2>/dev/null && echo $f; done; \
                       echo more 2>/dev/null >> file && echo file; chmod 600 file 2>/dev/null && echo mode; echo none";
        let ran = place.shell(refused);
        assert!(
            ran.out.contains("none\n") && !ran.out.contains('/') && !ran.out.contains("file"),
            "{ran:#?}"
        );
        let unique = place.directory.path().file_name().unwrap().to_str().unwrap().to_owned();
        let private = "for d in /tmp /var/tmp $HOME $XDG_RUNTIME_DIR /dev/shm; do mkdir $d/UNIQUE1 && mv $d/UNIQUE1 $d/UNIQUE2 || exit 1; done";
        place.shell(&private.replace("UNIQUE", &unique)).prints("");
        for directory in ["/tmp", "/var/tmp", "/dev/shm", place.path("home").to_str().unwrap()] {
            assert!(!Path::new(directory).join(format!("{unique}2")).exists(), "{directory}");
        }
        place.request.roots[0].writable = true;
        place.shell("mkdir made && echo new > made/file && mv made/file . && cat file").prints("new\n");
        assert_eq!(fs::read_to_string(place.path("workspace/file")).unwrap(), "new\n");
    }
}

#[test]
fn the_home_is_hidden_until_asked_for() {
    for who in Who::all() {
        let mut place = Place::new(who, "/home/alice/ws", &[]);
        fs::write(place.path("home/secret"), "secret\n").unwrap();
        fs::create_dir(place.path("home/state")).unwrap();
        fs::write(place.path("home/state/key"), "key\n").unwrap();
        place.request.hidden = vec![place.path("home/state").to_str().unwrap().to_owned()];
        let environment = [("SECRET_TOKEN", "t"), ("SSH_AUTH_SOCK", "/s"), ("LC_ALL", "C")];
        let output = place.launcher(&["sh", "-c", "ls -A $HOME; env"]).envs(environment).output().unwrap();
        let seen = String::from_utf8_lossy(&output.stdout);
        assert!(
            !seen.contains("secret") && !seen.contains("SECRET_TOKEN") && !seen.contains("SSH_AUTH_SOCK")
        );
        assert!(seen.contains("LC_ALL=C"), "{seen}");
        place.request.show_home = true;
        place
            .shell("cat $HOME/secret; ls $HOME/state; touch $HOME/new || echo refused")
            .prints("secret\nrefused\n");
    }
}

#[test]
fn what_is_shown_of_the_machine_works() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        place.shell("echo x > /dev/null && head -c 4 /dev/urandom | wc -c").prints("4\n");
        place.shell("test -e /proc/1/status && test $(ls -d /proc/[0-9]* | wc -l) -lt 10").prints("");
        place.shell("test -r /etc/resolv.conf && getent hosts localhost").prints("localhost");
        place.shell("ls -A /root /home/* /run/*; test ! -e /run/docker.sock").status.code().unwrap();
        let netns = fs::read_link("/proc/self/ns/net").unwrap();
        place.shell("readlink /proc/self/ns/net").prints(netns.to_str().unwrap());
        if who.uid() == 0 {
            place.shell("cat /etc/shadow || echo hidden").prints("hidden");
        }
    }
}

#[test]
fn set_user_id_does_nothing() {
    if !getuid().is_root() {
        return;
    }
    let place = Place::new(Who::User, "/home/alice/ws", &[]);
    fs::copy("/usr/bin/id", place.path("workspace/id")).unwrap();
    fs::set_permissions(place.path("workspace/id"), fs::Permissions::from_mode(0o4755)).unwrap();
    place.run(&["./id", "-u"]).prints(&USER.to_string());
}

#[test]
fn standard_streams_can_be_reopened() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let file = fs::File::create(place.path("out")).unwrap();
        chown(place.path("out"), Some(who.uid()), None).unwrap();
        let status =
            place.launcher(&["sh", "-c", "echo reopened > /dev/stdout"]).stdout(file).status().unwrap();
        assert!(status.success());
        assert!(fs::read_to_string(place.path("out")).unwrap().contains("reopened"));
    }
}

/// A launched command whose output is read as it comes.
struct Started {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Started {
    fn new(place: &Place, script: &str) -> Self {
        let mut child = place.launcher(&["sh", "-c", script]).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Reads lines up to one that contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.out.read_line(&mut line).unwrap(), 0, "no {text:?}");
        }
        line
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the end. Standard output ends only when nobody in the namespace holds it any more.
    fn end(mut self) -> ExitStatus {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap()
    }
}

#[test]
fn signals_reach_the_command() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let signals = [
            (Signal::TERM, "TERM", 3),
            (Signal::HUP, "HUP", 4),
            (Signal::USR1, "USR1", 5),
            (Signal::INT, "INT", 6),
        ];
        for (signal, name, code) in signals {
            let script =
                format!("trap 'echo got; exit {code}' {name}; echo ready; while :; do sleep 0.05; done");
            let mut started = Started::new(&place, &script);
            started.wait_for("ready");
            kill_process(started.pid(), signal).unwrap();
            started.wait_for("got");
            assert_eq!(started.end().code(), Some(code), "{name}");
        }
        let mut started = Started::new(&place, "echo ready; exec sleep 1000");
        started.wait_for("ready");
        kill_process(started.pid(), Signal::TERM).unwrap();
        assert_eq!(started.end().code(), Some(143));
    }
}

#[test]
fn nothing_is_left_behind() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        // In the background when the command ends. Holding standard output, it would keep `end` from returning.
        let mut started = Started::new(&place, "sleep 1000 & setsid sleep 1000 & echo ready");
        started.wait_for("ready");
        assert_eq!(started.end().code(), Some(0));
        // When the launching process is killed.
        let mut started = Started::new(&place, "sleep 1000 & echo ready; wait");
        started.wait_for("ready");
        kill_process(started.pid(), Signal::KILL).unwrap();
        assert_eq!(started.end().signal(), Some(Signal::KILL.as_raw()));
    }
}

/// A launched command on a terminal of its own.
struct Terminal {
    child: Child,
    keys: std::process::ChildStdin,
    screen: BufReader<std::process::ChildStdout>,
    seen: String,
}

impl Terminal {
    fn new(place: &Place, command: &[&str]) -> Self {
        let launcher = place.launcher(command);
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
        let words = std::iter::once(launcher.get_program()).chain(launcher.get_args());
        let mut script = Command::new("script");
        // A shell that stayed would be the terminal's, too, and end at Ctrl-C before the command does.
        let line = format!("exec {}", words.map(quoted).collect::<Vec<_>>().join(" "));
        script.args(["-qec", &line, "/dev/null"]);
        script.envs(launcher.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keys, screen: BufReader::new(screen), seen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads lines up to one that starts with `text`: what is typed appears after a prompt, what is printed does not.
    fn wait_for(&mut self, text: &str) {
        loop {
            let from = self.seen.len();
            assert_ne!(self.screen.read_line(&mut self.seen).unwrap(), 0, "no {text:?}: {}", self.seen);
            if self.seen[from..].trim_start_matches('\r').starts_with(text) {
                return;
            }
        }
    }

    /// Everything that appeared, once the command has ended.
    fn end(mut self) -> (String, Option<i32>) {
        self.screen.read_to_string(&mut self.seen).unwrap();
        (self.seen, self.child.wait().unwrap().code())
    }
}

#[test]
fn a_terminal_stays_the_users() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let test = "test -t 0 && test -t 1 && test -t 2 && stty size < /dev/tty && echo all";
        let (seen, code) = Terminal::new(&place, &["sh", "-c", test]).end();
        assert!(seen.contains("all") && code == Some(0), "{code:?}: {seen}");
        // Typing for the user is refused.
        let typing =
            "import fcntl\ntry: fcntl.ioctl(0, 0x5412, b'x')\nexcept OSError as e: print('refused', e.errno)";
        let (seen, _) = Terminal::new(&place, &["/usr/bin/python3", "-c", typing]).end();
        assert!(seen.contains("refused 1"), "{seen}");
    }
}

#[test]
fn a_shell_inside_has_job_control() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let mut terminal = Terminal::new(&place, &["bash", "--norc", "-i"]);
        for (key, printed) in [("\x03", "code-130"), ("\x1a", "code-148")] {
            terminal.press("sh -c 'echo is-up; exec sleep 1000'\n");
            terminal.wait_for("is-up");
            terminal.press(key);
            terminal.press("echo code-$?\n");
            terminal.wait_for(printed);
        }
        terminal.press("kill %1; fg; exit 5\n");
        let (seen, code) = terminal.end();
        assert_eq!(code, Some(5), "{seen}");
    }
}

#[test]
fn ctrl_c_ends_the_command_and_not_its_surroundings() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        // The command handles the interrupt and needs a moment for it: whoever ended first would take it along.
        let script = "trap 'sleep 0.3; echo tidied-up; exit 9' INT; echo ready; while :; do sleep 0.05; done";
        let mut terminal = Terminal::new(&place, &["sh", "-c", script]);
        terminal.wait_for("ready");
        terminal.press("\x03");
        let (seen, code) = terminal.end();
        assert!(seen.contains("tidied-up") && code == Some(9), "{code:?}: {seen}");
    }
}

#[test]
fn a_namespace_that_cannot_be_made_is_explained() {
    let place = Place::new(Who::Caller, "/home/alice/ws", &[]);
    let mut launcher = place.launcher(&["true"]);
    fs::remove_dir_all(place.path("workspace")).unwrap();
    let output = launcher.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(message.contains("cannot be separated from this machine: bwrap: "), "{message}");
}

/// The only child of any thread of a process.
fn child_of(pid: u32) -> Pid {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    Pid::from_raw(children.collect::<String>().trim().parse().unwrap()).unwrap()
}

#[test]
fn a_killed_launcher_takes_everything_along() {
    let place = Place::new(Who::Caller, "/home/alice/ws", &[]);
    let mut started =
        Started::new(&place, "echo pid $(sed -n 's/^NSpid:.//p' /proc/self/status); exec sleep 1000");
    started.wait_for("pid");
    let bwrap = child_of(started.child.id());
    kill_process(started.pid(), Signal::KILL).unwrap();
    started.child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while test_kill_process(bwrap).is_ok() {
        assert!(Instant::now() < deadline, "bwrap is still there");
        std::thread::yield_now();
    }
}
