//! Where bubblewrap is, and why it may be unable to work.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::launch::LaunchError;

/// Bubblewrap's program, by the caller's `PATH`.
pub(super) fn find() -> Result<PathBuf, LaunchError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&path).filter(|directory| directory.is_absolute());
    candidates
        .find_map(|directory| Some(directory.join("bwrap")).filter(|bwrap| bwrap.is_file()))
        .ok_or(LaunchError::NoBubblewrap)
}

/// Tries once whether this user can have the namespaces a run needs. Takes some 20 ms and blocks.
pub fn probe() -> Result<(), LaunchError> {
    let kinds = ["--unshare-user", "--unshare-pid", "--unshare-ipc"];
    let tree = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"];
    let mut command = Command::new(find()?);
    command.args(kinds).args(tree).args(["--cap-drop", "ALL", "--", "true"]).stdin(Stdio::null());
    let output = command.output().map_err(|source| LaunchError::Start { source })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(refused(&output.stderr)),
    }
}

/// The error for a bubblewrap that gave up with `message`.
pub(super) fn refused(message: &[u8]) -> LaunchError {
    let message = String::from_utf8_lossy(message);
    let why = message.lines().next().unwrap_or("bwrap ended without a message").trim().to_owned();
    let fix = fix(|path| fs::read_to_string(path).ok(), Path::exists);
    LaunchError::Refused { why, fix: fix.map(str::to_owned) }
}

/// What this system's settings say against namespaces, and how to change it.
fn fix(read: impl Fn(&str) -> Option<String>, exists: impl Fn(&Path) -> bool) -> Option<&'static str> {
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        Some(
            "AppArmor keeps unprivileged user namespaces from programs without a profile: run twinshare's \
             install.sh, which adds one for twinshare and what it starts, or allow them to all programs with \
             `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        )
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        Some("user namespaces are switched off: `sudo sysctl -w kernel.unprivileged_userns_clone=1`")
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        Some("no user namespaces are allowed: `sudo sysctl -w user.max_user_namespaces=15000`")
    } else if exists(Path::new("/.dockerenv")) || exists(Path::new("/run/.containerenv")) {
        Some(
            "this is a container, which needs the right to make namespaces: start it with \
             `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`, or with `--privileged`",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(setting: &str, value: &str, container: bool, expected: &str) {
        let text = fix(|path| (path == setting).then(|| format!("{value}\n")), |_| container);
        assert!(text.unwrap_or("nothing").contains(expected), "{setting}: {text:?}");
    }

    #[test]
    fn refusals_name_their_cure() {
        check("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", false, "AppArmor");
        check("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0", false, "nothing");
        check("/proc/sys/kernel/unprivileged_userns_clone", "0", true, "unprivileged_userns_clone=1");
        check("/proc/sys/user/max_user_namespaces", "0", false, "max_user_namespaces=15000");
        check("", "", true, "container");
    }
}
