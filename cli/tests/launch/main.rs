//! Runs carried out for real: bubblewrap, Landlock, signals and terminals, as the caller and, where the caller is
//! root, as an ordinary user too. The roots are ordinary directories.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process, test_kill_process};
use tempfile::TempDir;
use twinshare_daemon::runtime::Plan;
use twinshare_daemon::runtime::launch::{LaunchError, launch};

mod place;
mod terminal;

use place::{PLAN, PROGRAM, Place, Started, USER, Who};

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
        let homes = place.shell("echo begin; ls -A /root /home /home/alice; test ! -e /run/docker.sock");
        homes.prints("begin\n/home:\nalice\n\n/home/alice:\nws\n\n/root:\n");
        assert!(homes.out.ends_with("/root:\n"), "{homes:#?}");
        // What name resolution needs, and what is the run's own.
        let shown = ["nscd", "opengl-driver", "current-system", "systemd", "resolvconf", "NetworkManager"];
        let own = ["user".to_owned(), "twinshare".to_owned(), who.uid().to_string()];
        let run = place.shell("echo begin; ls -A /run; ls -A /run/user").out;
        for name in run.lines().skip_while(|line| *line != "begin").skip(1) {
            assert!(shown.contains(&name) || own.iter().any(|own| own == name), "/run shows {name}");
        }
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
