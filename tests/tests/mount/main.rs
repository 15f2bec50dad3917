//! Real mounts, in the way the user who runs the tests can mount: what they show, what they do while the origin is silent,
//! and how they end.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use twinshare_tests::wait;

mod anew;
mod clone;
mod follow;
mod served;
mod tree;

use served::{Place, Who};
use tree::content;

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_mount_shows_the_tree_as_it_is() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    tree::make_odd(&place.source())?;
    let _served = place.serve("wait=20s")?;
    tree::compare(&place.source(), &place.mount_point())?;
    // And once more, from what the kernel has kept.
    tree::compare(&place.source(), &place.mount_point())?;
    // An archive holds all of it, holes and links included.
    let archives = [place.source(), place.mount_point()].map(|root| archive(&root));
    let [expected, found] = archives;
    ensure!(expected? == found?, "the archives differ");
    Ok(())
}

fn archive(root: &Path) -> Result<blake3::Hash> {
    // The GNU format, since tar writes its own pid into POSIX ones.
    let arguments = ["--sparse", "--sort=name", "--format=gnu"];
    let output = Command::new("tar").args(arguments).arg("-C").arg(root).args(["-cf", "-", "."]).output()?;
    // A file that its owner may not read is missing in both.
    ensure!(output.status.success() || !served::is_root(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(blake3::hash(&output.stdout))
}

#[test]
fn programs_run_from_a_mount_and_map_its_files() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    fs::copy("/bin/cat", place.source().join("cat"))?;
    fs::write(place.source().join("data"), content(5_000_000))?;
    let _served = place.serve("wait=20s")?;
    let at = place.mount_point();
    let output = Command::new(at.join("cat")).arg(at.join("data")).output()?;
    ensure!(output.status.success() && output.stdout == content(5_000_000));
    let script = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); \
                  sys.exit(m[:] != open(sys.argv[2], 'rb').read())";
    let paths = [at.join("data"), place.source().join("data")];
    ensure!(Command::new("/usr/bin/python3").args(["-c", script]).args(paths).status()?.success());
    Ok(())
}

#[test]
fn git_finds_a_clean_tree_and_nothing_to_run() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let source = place.source();
    git(&source, &["init", "-q"])?;
    fs::write(source.join("tracked"), "x")?;
    git(&source, &["add", "."])?;
    git(&source, &["commit", "-q", "-m", "x"])?;
    let ran = place.trap();
    let trap = format!("touch {}; false", ran.display());
    for key in ["core.fsmonitor", "diff.external", "filter.evil.clean", "core.pager", "core.sshCommand"] {
        git(&source, &["config", key, &trap])?;
    }
    fs::write(source.join(".git/info/attributes"), "* filter=evil\n")?;
    let hook = source.join(".git/hooks/post-index-change");
    fs::create_dir_all(hook.parent().context("a hook has a directory")?)?;
    fs::write(&hook, format!("#!/bin/sh\n{trap}\n"))?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    let _served = place.serve("wait=20s")?;
    let at = place.mount_point();
    ensure!(git(&at, &["status", "--porcelain"])?.is_empty());
    git(&at, &["log", "-p", "--ext-diff"])?;
    git(&at, &["diff", "HEAD"])?;
    ensure!(!ran.exists(), "git ran what the origin's configuration names");
    // The trap is one: the origin's own user is the one who runs it.
    git(&source, &["status"])?;
    ensure!(ran.exists(), "nothing would have been noticed");
    let config = fs::read_to_string(at.join(".git/config"))?;
    ensure!(config.contains("checkstat = minimal") && !config.contains("fsmonitor"), "{config}");
    ensure!(fs::metadata(at.join(".git/config"))?.len() == config.len() as u64);
    let mode = fs::metadata(at.join(".git/hooks/post-index-change"))?.permissions().mode();
    ensure!(mode & 0o777 == 0o644, "the hook has mode {mode:o}");
    Ok(())
}

fn git(at: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@b"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(at)
        .output()?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_hundred_thousand_entries_are_walked() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    place.use_memory()?;
    let entries = tree::make_wide(&place.source(), 990, 100)?;
    let _served = place.serve("wait=20s")?;
    for pass in ["cold", "warm"] {
        let (began, found) = (Instant::now(), count(&place.mount_point())?);
        println!("{pass}: {found} entries listed and examined in {:?}", began.elapsed());
        ensure!(found == entries);
    }
    Ok(())
}

fn count(directory: &Path) -> Result<u32> {
    let mut found = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        found += 1;
        if entry.metadata()?.is_dir() {
            found += count(&entry.path())?;
        }
    }
    Ok(found)
}

/// Programs that wait for a silent origin at once.
const READERS: usize = 20;

#[test]
fn a_silent_origin_delays_only_those_who_need_it() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let cold = |number: usize| format!("cold{number}");
    for name in (0..READERS).map(cold).chain(["warm".into()]) {
        fs::write(place.source().join(name), content(300_000))?;
    }
    let mut served = place.serve("wait=2s")?;
    let at = place.mount_point();
    ensure!(fs::read(at.join("warm"))? == content(300_000));
    served.ask("stall")?;
    let readers: Vec<_> = (0..READERS).map(|number| reader(&at.join(cold(number)))).collect::<Result<_>>()?;
    // Many wait now; data that is here, names and attributes do not.
    let began = Instant::now();
    ensure!(fs::read(at.join("warm"))? == content(300_000));
    ensure!(fs::metadata(at.join(cold(0)))?.len() == 300_000);
    ensure!(!at.join("absent").try_exists()?);
    ensure!(fs::read_dir(&at)?.count() == READERS + 1);
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(1), "what needs no origin took {took:?}");
    for mut reader in readers {
        let (status, took) = (ended(&mut reader)?, began.elapsed());
        ensure!(status.code() == Some(libc::EIO), "a reader ended with {status}");
        ensure!(took < Duration::from_secs(10), "a reader waited for {took:?}");
    }
    served.ask("resume")?;
    ensure!(fs::read(at.join(cold(0)))? == content(300_000));
    Ok(())
}

/// A file that is removed at the origin while it is read: what arrives is what it was, and where it ends is an error.
#[test]
fn a_file_that_vanishes_while_it_is_read_is_never_short() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let expected = content(64 << 20);
    fs::write(place.source().join("large"), &expected)?;
    let mut served = place.serve("wait=20s")?;
    let mut file = fs::File::open(place.mount_point().join("large"))?;
    let mut read = vec![0; 100_000];
    file.read_exact(&mut read)?;
    served.ask("stall")?;
    fs::remove_file(place.source().join("large"))?;
    served.ask("resume")?;
    let ended = file.read_to_end(&mut read);
    ensure!(expected.starts_with(&read), "other bytes than the file had");
    match ended {
        Ok(_) => ensure!(read.len() == expected.len(), "it ended after {} bytes", read.len()),
        Err(error) => ensure!(error.raw_os_error() == Some(libc::ESTALE), "{error}"),
    }
    let error = fs::read(place.mount_point().join("large")).err();
    ensure!(read.len() == expected.len() || error.is_some_and(|e| e.raw_os_error() == Some(libc::ESTALE)));
    Ok(())
}

#[test]
fn a_reader_of_a_silent_origin_can_be_stopped() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    fs::write(place.source().join("cold"), content(3_000_000))?;
    let mut served = place.serve("wait")?;
    let cold = place.mount_point().join("cold");
    served.ask("stall")?;
    // Both catch SIGINT, so only the mount can end the read, with EINTR.
    check_stopped(reader(&cold)?, Signal::INT, Some(libc::EINTR))?;
    for start in [reader, mapper] {
        check_stopped(start(&cold)?, Signal::TERM, None)?;
        check_stopped(start(&cold)?, Signal::KILL, None)?;
    }
    // In a page fault the handler runs, and the access is tried again.
    let mut mapper = mapper(&cold)?;
    wait::until_true("the reader to wait", BOUND, || waits_in_kernel(&mapper))?;
    kill_process(Pid::from_child(&mapper), Signal::INT)?;
    wait::until_true("the handler to run", BOUND, || Ok(!has_pending_signal(&mapper)?))?;
    served.ask("resume")?;
    let status = ended(&mut mapper)?;
    ensure!(status.code() == Some(libc::EINTR), "it ended with {status}");
    ensure!(fs::read(cold)? == content(3_000_000));
    Ok(())
}

fn check_stopped(mut reader: Child, signal: Signal, expected: Option<i32>) -> Result<()> {
    wait::until_true("the reader to wait", BOUND, || waits_in_kernel(&reader))?;
    let began = Instant::now();
    kill_process(Pid::from_child(&reader), signal)?;
    let (status, took) = (ended(&mut reader)?, began.elapsed());
    ensure!(status.code() == expected, "after {signal:?} the reader ended with {status}");
    ensure!(took < Duration::from_secs(1), "{signal:?} took {took:?}");
    Ok(())
}

fn has_pending_signal(process: &Child) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let pending = |line: &str| line.split_once("Pnd:\t").is_some_and(|(_, mask)| mask.contains(|c| c != '0'));
    Ok(status.lines().any(pending))
}

/// A program that reads the beginning of a file and ends with the errno it met: EINTR after SIGINT.
fn reader(path: &Path) -> Result<Child> {
    python("os.read(file, 10)", path)
}

/// As [`reader`], by mapping the file; its handler for SIGINT takes effect once the access is done.
fn mapper(path: &Path) -> Result<Child> {
    python("mmap.mmap(file, 0, prot=mmap.PROT_READ)[0]", path)
}

fn python(act: &str, path: &Path) -> Result<Child> {
    let script = format!(
        "import errno, mmap, os, signal, sys
def stop(*_): raise OSError(errno.EINTR, 'stopped')
signal.signal(signal.SIGINT, stop)
try:
    file = os.open(sys.argv[1], os.O_RDONLY)
    {act}
    for _ in 'here handlers run': pass
except OSError as error:
    sys.exit(error.errno)"
    );
    Ok(Command::new("/usr/bin/python3").args(["-c", &script]).arg(path).spawn()?)
}

/// True when a process has the cold file open and waits without being open to signals.
fn waits_in_kernel(process: &Child) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let opened = fs::read_dir(format!("/proc/{}/fd", process.id()))?
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .any(|path| path.ends_with("mount/cold"));
    Ok(opened && stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D')))
}

fn ended(process: &mut Child) -> Result<ExitStatus> {
    wait::until("a process to end", BOUND, || Ok(process.try_wait()?))
}

#[test]
fn a_busy_mount_stays_and_says_who_is_in_it() -> Result<()> {
    for who in Who::all() {
        let place = Place::new(*who)?;
        fs::create_dir(place.source().join("src"))?;
        let mut served = place.serve("wait=20s")?;
        let mut sleeper = sleeper_in(&place, &place.mount_point().join("src"))?;
        let refusal = served.ask("unmount").err().context("it is in use")?.to_string();
        sleeper.kill()?;
        sleeper.wait()?;
        let expected = format!("(pid {}) in src/", sleeper.id());
        ensure!(refusal.contains(&expected), "{refusal}");
        ensure!(is_mounted(&place)?);
        served.ask("unmount")?;
        served.ask("ended")?;
        ensure!(!is_mounted(&place)?);
    }
    Ok(())
}

#[test]
fn a_dead_mount_is_swept_and_a_living_one_left() -> Result<()> {
    for who in Who::all() {
        let place = Place::new(*who)?;
        fs::write(place.source().join("file"), "x")?;
        let mut served = place.serve("wait=20s")?;
        ensure!(sweep(&place)? == "false", "a living mount was swept");
        served.kill()?;
        let error = fs::metadata(place.mount_point().join("file")).err().context("its server is dead")?;
        ensure!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EACCES)), "{error}");
        ensure!(sweep(&place)? == "true");
        ensure!(!is_mounted(&place)? && sweep(&place)? == "false");
        // The mount point serves again.
        let _served = place.serve("wait=20s")?;
        ensure!(is_mounted(&place)?);
    }
    Ok(())
}

#[test]
fn a_mount_whose_server_is_stopped_holds_nobody_up() -> Result<()> {
    for who in Who::all() {
        let place = Place::new(*who)?;
        fs::write(place.source().join("file"), "x")?;
        let mut served = place.serve("wait=20s")?;
        served.stop()?;
        let began = Instant::now();
        let swept = sweep(&place)?;
        let took = began.elapsed();
        served.go_on()?;
        ensure!(swept == "false" && is_mounted(&place)?, "a mount whose server is stopped was swept");
        ensure!(took < Duration::from_secs(15), "it took {took:?}");
        served.ask("unmount")?;
    }
    Ok(())
}

/// A process that has its working directory in `directory`, run by whoever serves: nobody else may go there.
fn sleeper_in(place: &Place, directory: &Path) -> Result<Child> {
    let mut command = place.command("sh");
    command.args(["-c", "cd \"$1\" && echo there && exec sleep 1000", "sleeper"]).arg(directory);
    let mut sleeper = command.stdout(Stdio::piped()).spawn()?;
    let mut said = [0; 6];
    sleeper.stdout.take().context("the sleeper has no output")?.read_exact(&mut said)?;
    Ok(sleeper)
}

/// What the one who serves says about sweeping the mount point.
fn sweep(place: &Place) -> Result<String> {
    let output = place.command(place.server()?).arg("sweep").arg(place.mount_point()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn is_mounted(place: &Place) -> Result<bool> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let at = place.mount_point();
    Ok(table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(&at)))
}
