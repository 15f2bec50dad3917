//! What in the node's surroundings keeps it from working, or from working well, and what to do about it.
//!
//! Each check looks and changes nothing. They run side by side, each with a bound; one that does not end is itself a
//! finding.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::process::{Resource, getrlimit};

use super::{Node, firewall, privilege};
use crate::api::wire::{Check, CheckState, Mode};
use crate::config::Config;
use crate::discovery::{InterfaceState, InterfaceStatus};
use crate::home::Home;
use crate::runtime::bubblewrap;
use crate::runtime::launch::LaunchError;
use crate::yaml::YamlError;

/// How long one check may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// Fewer descriptors than this are used up by a few hundred open files of a mount.
const DESCRIPTORS_MIN: u64 = 4096;

/// Less free space than this is used up by an ordinary workspace.
const FREE_BYTES_MIN: u64 = 2 << 30;

/// One check, which may block.
type Looking = Box<dyn FnOnce() -> Check + Send>;

impl Node {
    /// Looks at everything that has to do with this node.
    pub(crate) async fn examine(&self) -> Vec<Check> {
        let mut found = surroundings(self.home()).await;
        found.push(configuration(Config::load(&self.home().config_file()), Some(self.config())));
        found.push(self.firewall().await);
        found.push(port(self.config().listen.port, self.listening.port()));
        let enabled = self.config().discovery.enabled;
        found.push(discovery(enabled, &self.peers().seen().interfaces));
        found
    }

    /// Looks whether the firewall lets peers in.
    pub(crate) async fn firewall(&self) -> Check {
        firewall::check(self.config(), self.listening.port()).await
    }
}

/// Looks at everything that can be seen without a node on `home`. Changes nothing.
pub async fn examine_without_node(home: &Home) -> Vec<Check> {
    let mut found = surroundings(home).await;
    let loaded = Config::load(&home.config_file());
    let readable = loaded.as_ref().ok().cloned();
    found.push(configuration(loaded, None));
    if let Some(config) = readable {
        found.push(firewall::check(&config, config.listen.port).await);
    }
    found
}

/// What needs neither a node nor its configuration.
async fn surroundings(home: &Home) -> Vec<Check> {
    let stores = [home.cache(), home.files()].map(Path::to_owned);
    let mode = privilege::mode();
    let mut checks: Vec<(&str, Looking)> = vec![
        ("fuse", Box::new(fuse)),
        ("fusermount", Box::new(move || fusermount(mode))),
        ("namespaces", Box::new(|| namespaces(bubblewrap::probe()))),
        ("landlock", Box::new(|| landlock(has_landlock()))),
        ("descriptors", Box::new(|| descriptors(getrlimit(Resource::Nofile).current))),
    ];
    for store in stores {
        checks.push(("space", Box::new(move || space(&store))));
    }
    let running = checks.into_iter().map(|(name, check)| (name, tokio::task::spawn_blocking(check)));
    let mut found = Vec::new();
    for (name, check) in running.collect::<Vec<_>>() {
        found.push(match tokio::time::timeout(CHECK_WITHIN, check).await {
            Ok(Ok(check)) => check,
            Ok(Err(died)) => warn(name, format!("could not be checked: {died}"), None),
            Err(_) => warn(name, format!("no answer within {} seconds", CHECK_WITHIN.as_secs()), None),
        });
    }
    found
}

pub(super) fn ok(name: &str, message: impl Into<String>) -> Check {
    Check { name: name.to_owned(), state: CheckState::Ok, message: message.into(), fix: None }
}

pub(super) fn warn(name: &str, message: impl Into<String>, fix: Option<&str>) -> Check {
    let fix = fix.map(str::to_owned);
    Check { name: name.to_owned(), state: CheckState::Warn, message: message.into(), fix }
}

pub(super) fn fail(name: &str, message: impl Into<String>, fix: Option<&str>) -> Check {
    Check { state: CheckState::Fail, ..warn(name, message, fix) }
}

/// Whether the configuration file can be used, and is what the node that runs was started with.
fn configuration(loaded: Result<Config, YamlError>, running: Option<&Config>) -> Check {
    const NAME: &str = "configuration";
    let is_other = |config: &Config| running.is_some_and(|running| running != config);
    match loaded {
        Err(error) if running.is_some() => {
            let message = format!("the node would not start again: {error}");
            fail(NAME, message, Some("correct the file, or remove it"))
        }
        Err(error) => fail(NAME, error.to_string(), Some("correct the file, or remove it")),
        Ok(config) if is_other(&config) => {
            let message = "the file was changed after the node was started, which goes on as it was";
            warn(NAME, message, Some("twinshare p2p stop && twinshare p2p start"))
        }
        Ok(_) => ok(NAME, "can be used"),
    }
}

fn fuse() -> Check {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => ok("fuse", "/dev/fuse can be used"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fail("fuse", "this user may not use /dev/fuse", Some("sudo chmod 666 /dev/fuse"))
        }
        Err(error) => fail("fuse", format!("/dev/fuse: {error}"), Some("sudo modprobe fuse")),
    }
}

fn fusermount(mode: Mode) -> Check {
    const INSTALL: Option<&str> = Some("sudo apt-get install fuse3");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|at| at.join("fusermount3")).find(|file| file.is_file());
    match (mode, found) {
        (Mode::Root, _) => ok("fusermount", "not needed: the node was started by root"),
        (Mode::User, None) => fail("fusermount", "fusermount3 is not installed", INSTALL),
        (Mode::User, Some(file)) if is_setuid_root(&file) => {
            ok("fusermount", format!("{} mounts", file.display()))
        }
        (Mode::User, Some(file)) => {
            let message = format!("{} is not set-user-id root, so it cannot mount", file.display());
            fail("fusermount", message, Some("sudo chmod u+s \"$(command -v fusermount3)\""))
        }
    }
}

fn is_setuid_root(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.uid() == 0 && found.permissions().mode() & 0o4000 != 0)
}

fn namespaces(probed: Result<(), LaunchError>) -> Check {
    match probed {
        Ok(()) => ok("namespaces", "commands can be separated from this machine"),
        Err(error @ LaunchError::NoBubblewrap) => {
            fail("namespaces", error.to_string(), Some("sudo apt-get install bubblewrap"))
        }
        Err(LaunchError::Refused { why, fix }) => fail("namespaces", why, fix.as_deref()),
        Err(other) => fail("namespaces", other.to_string(), None),
    }
}

/// Whether the kernel confines by Landlock what a run needs confined: renames between directories, since Linux 5.19.
fn has_landlock() -> bool {
    let needed = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    needed.handle_access(AccessFs::Refer).and_then(Ruleset::create).is_ok()
}

fn landlock(is_there: bool) -> Check {
    match is_there {
        true => ok("landlock", "commands are also confined by Landlock"),
        false => warn(
            "landlock",
            "the kernel does not offer Landlock: commands are confined by namespaces alone",
            Some("on Linux 5.19 or newer, add `landlock` to the kernel's `lsm=` parameter"),
        ),
    }
}

/// `current` is the limit, `None` for no limit.
fn descriptors(current: Option<u64>) -> Check {
    match current {
        Some(current) if current < DESCRIPTORS_MIN => warn(
            "descriptors",
            format!("this user may open {current} files at a time; a busy share needs more"),
            Some("raise the hard limit `nofile` in /etc/security/limits.conf"),
        ),
        Some(current) => ok("descriptors", format!("{current} open files are allowed")),
        None => ok("descriptors", "open files are not limited"),
    }
}

/// `wanted` is the configured port, 0 for any; `used` the one peers are listened for on.
fn port(wanted: u16, used: u16) -> Check {
    match wanted == used || wanted == 0 {
        true => ok("port", format!("peers reach this node on UDP port {used}")),
        false => warn(
            "port",
            format!(
                "UDP port {wanted} was taken, so peers reach this node on {used}, which firewalls may not let in"
            ),
            Some("end the other program and restart the node, or choose a port with `listen: {port: N}`"),
        ),
    }
}

fn discovery(enabled: bool, interfaces: &[InterfaceStatus]) -> Check {
    const NAME_ONE: &str =
        "name one with `discovery: {interfaces: [NAME]}`, or add peers with `twinshare p2p add HOST`";
    let named = |state: InterfaceState| {
        let of_state = interfaces.iter().filter(move |interface| interface.state == state);
        of_state.map(|interface| match &interface.reason {
            Some(reason) => format!("{} ({reason})", interface.name),
            None => interface.name.clone(),
        })
    };
    let list = |state| named(state).collect::<Vec<_>>().join(", ");
    let failed = list(InterfaceState::Failed);
    match (enabled, list(InterfaceState::Used)) {
        (false, _) => ok("discovery", "switched off by the configuration"),
        (true, used) if !failed.is_empty() => {
            warn("discovery", format!("beacons cannot be sent on {failed}; used: [{used}]"), Some(NAME_ONE))
        }
        (true, used) if used.is_empty() => {
            let ignored = list(InterfaceState::Ignored);
            warn("discovery", format!("no network interface is used; ignored: [{ignored}]"), Some(NAME_ONE))
        }
        (true, used) => ok("discovery", format!("peers are looked for on {used}")),
    }
}

fn space(store: &Path) -> Check {
    // The directory is made when something first lies in it.
    let there = store.ancestors().find(|path| path.exists()).unwrap_or(store);
    let place = store.display();
    match rustix::fs::statvfs(there) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let gib = free >> 30;
            match free < FREE_BYTES_MIN {
                true => warn("space", format!("less than {} GiB are free in {place}", gib + 1), None),
                false => ok("space", format!("{gib} GiB are free in {place}")),
            }
        }
        Err(errno) => warn("space", format!("{place}: {errno}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_file_is_looked_at_while_a_node_runs() {
        let parse = |text: &str| Config::parse(text, Path::new("/c/config.yaml"));
        let running = parse("name: anna\n").unwrap();
        let of = |text: &str, running| configuration(parse(text), running);
        check(of("name: anna\n", Some(&running)), CheckState::Ok, "can be used");
        check(of("nmae: anna\n", Some(&running)), CheckState::Fail, "would not start again: /c/config.yaml");
        check(of("name: bob\n", Some(&running)), CheckState::Warn, "p2p stop && twinshare p2p start");
        check(of("nmae: anna\n", None), CheckState::Fail, "nmae");
        check(of("", None), CheckState::Ok, "can be used");
    }

    #[track_caller]
    fn check(found: Check, state: CheckState, part: &str) {
        assert_eq!(found.state, state, "{found:?}");
        let text = format!("{} {}", found.message, found.fix.as_deref().unwrap_or("-"));
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn findings_say_what_to_do() {
        use CheckState::{Fail, Ok as Good, Warn};
        check(namespaces(Ok(())), Good, "separated");
        check(namespaces(Err(LaunchError::NoBubblewrap)), Fail, "apt-get install bubblewrap");
        let refused = LaunchError::Refused { why: "no".into(), fix: Some("sysctl".into()) };
        check(namespaces(Err(refused)), Fail, "no sysctl");
        check(landlock(true), Good, "Landlock");
        check(landlock(false), Warn, "lsm=");
        check(descriptors(Some(1024)), Warn, "1024");
        check(descriptors(Some(4096)), Good, "4096");
        check(descriptors(None), Good, "not limited");
        check(port(37778, 37778), Good, "37778");
        check(port(0, 5), Good, "5");
        check(port(37778, 5), Warn, "37778 was taken, so peers reach this node on 5");
        check(discovery(false, &[]), Good, "switched off");
        check(discovery(true, &[]), Warn, "twinshare p2p add");
        let status = |name: &str, state, reason: Option<&str>| InterfaceStatus {
            name: name.to_owned(),
            state,
            reason: reason.map(str::to_owned),
        };
        let used = status("eth0", InterfaceState::Used, None);
        let ignored = status("docker0", InterfaceState::Ignored, Some("a bridge"));
        let failed = status("wlan0", InterfaceState::Failed, Some("no route"));
        check(discovery(true, &[used.clone(), ignored.clone()]), Good, "on eth0");
        check(discovery(true, &[ignored]), Warn, "docker0 (a bridge)");
        check(discovery(true, &[used, failed]), Warn, "wlan0 (no route)");
        check(fusermount(Mode::Root), Good, "not needed");
        check(space(Path::new("/proc/no/such")), Warn, "less than 1 GiB are free in /proc/no/such");
    }

    #[tokio::test]
    async fn every_check_reports_on_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::isolated(directory.path());
        home.prepare().unwrap();
        let names = async || {
            let found = examine_without_node(&home).await;
            found.into_iter().map(|check| check.name).collect::<Vec<_>>()
        };
        let always = ["fuse", "fusermount", "namespaces", "landlock", "descriptors", "space", "space"];
        let always = [&always[..], &["configuration"]].concat();
        assert_eq!(names().await, [&always[..], &["firewall"]].concat());
        fs::write(home.config_file(), "listen: {prot: 1}").unwrap();
        assert_eq!(names().await, always);
    }
}
