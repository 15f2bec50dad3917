//! For tests: the same test once more, as a user who may not do everything.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const MARK: &str = "TWINSHARE_TEST_CHILD";

/// Runs `body` as an ordinary user: at once when we are one, else in a child that runs the test `name` again as
/// `nobody`, from a copy of the test's binary in a directory that everybody may enter.
#[track_caller]
pub(crate) fn run(name: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    let public = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(public.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = public.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut child = Command::new(copy);
    child.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    child.env(MARK, "user").env("TMPDIR", "/tmp").current_dir("/").uid(65534).gid(65534);
    check(name, child);
}

/// Runs `body` in a mount namespace of its own, in which it may mount; as [`run`] does it.
#[track_caller]
pub(crate) fn with_mounts(name: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let this = std::env::current_exe().unwrap();
    let mut child = Command::new("unshare");
    child.args(["--mount", "--map-root-user", "--user"]).arg(&this);
    child.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "mounts");
    check(name, child);
}

#[track_caller]
fn check(name: &str, mut child: Command) {
    let output = child.output().expect("the copy and unshare can be started");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{name} failed in a child:\n{text}");
}
