//! Whether a command will find on this host what its environment needs from it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Need;
use super::layout::{Layout, Mount};

/// Programs that say what version they are, by the start of their names.
const INTERPRETERS: [&str; 6] = ["python", "pypy", "node", "ruby", "perl", "julia"];

/// How long an interpreter may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of a version at most: they are shown in a line.
const VERSION_BYTES_MAX: u64 = 80;

/// Looks in the tree a command will see.
pub(super) fn examine(layout: &Layout<'_>, requires: &[(String, String)]) -> Vec<Need> {
    let examine = |(path, why): &(String, String)| {
        let found = find(layout, path);
        let version = found.as_deref().and_then(version);
        Need { path: path.clone(), why: why.clone(), present: found.is_some(), version }
    };
    requires.iter().map(examine).collect()
}

/// Where on this host a path leads that the command looks up; none where it finds nothing.
fn find(layout: &Layout<'_>, path: &str) -> Option<String> {
    let place = layout.resolve(path).ok()?;
    layout.entry(&place)?;
    let hidden = matches!(layout.cover(&place), Some((_, Mount::Blank)));
    (!hidden).then_some(place)
}

/// What an interpreter of the system says of itself. Nothing else is started: whoever shares a workspace chooses the
/// paths it refers to.
fn version(path: &str) -> Option<String> {
    let name = path.strip_prefix("/usr/bin/").or_else(|| path.strip_prefix("/usr/local/bin/"))?;
    let metadata = fs::metadata(path).ok()?;
    let of_the_system = metadata.uid() == 0 && metadata.mode() & 0o022 == 0 && !name.contains('/');
    if !of_the_system || !INTERPRETERS.iter().any(|start| name.starts_with(start)) {
        return None;
    }
    let mut command = Command::new(path);
    command.arg("--version").env_clear().current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let deadline = Instant::now() + VERSION_WITHIN;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            // Whether it had just ended makes no difference.
            let _ = child.kill().and_then(|()| child.wait());
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut text = String::new();
    child.stdout?.take(VERSION_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Invented, facts, request};
    use super::super::{prepare, process};
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: bool) {
        let host = Invented::new(&["/opt/", "/opt/py", "/opt/link -> /home/me/notes", "/m/", "/m/inside"]);
        let seen = process::see(&request(&[("/m", "/w")]), &facts(), &host).unwrap();
        let needs = examine(&seen.layout, &[(path.to_owned(), "it".to_owned())]);
        assert_eq!(needs[0].present, expected, "{path}");
    }

    #[test]
    fn only_what_the_command_will_see_is_present() {
        check("/opt/py", true);
        check("/opt/none", false);
        check("/home/me/notes", false);
        check("/opt/link", false);
        check("/w/inside", true);
        check("/w/none", false);
        check("/m/inside", true);
    }

    #[test]
    fn the_systems_python_says_its_version() {
        let require = |path: &str| (path.to_owned(), String::new());
        let request = request(&[("/usr/share", "/w")]);
        let needs =
            prepare(&request, Some(&[require("/usr/bin/python3"), require("/usr/bin/env")])).unwrap().needs;
        assert_eq!(prepare(&request, None).unwrap().needs, None);
        let needs = needs.unwrap();
        assert!(needs[0].version.as_ref().is_some_and(|version| version.starts_with("3.")), "{needs:?}");
        assert_eq!((needs[1].present, &needs[1].version), (true, &None));
    }
}
