//! Copies of a mount in other mount namespaces, as sandboxes and containers make them.
//!
//! A plain unmount does not see them: it takes the mount from here, and whoever runs there goes on with a file system
//! that nobody here knows of any more. So those who use one are looked for first. A copy that nobody uses is in nobody's
//! way: everything that makes a mount namespace of its own has one of every mount. It is served until the kernel says that it is
//! gone, like those that could not be seen. A copy that goes together with the mount, since the kernel propagates the
//! unmount to it (`propagate_umount` in `fs/pnode.c`), is none.
//!
//! Best effort, as [`super::holders`] is: the namespaces of other users' processes cannot be looked into.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::holders::{HOLDERS_MAX, HeldBy, Holder, LOOK_FOR, command, uses_any};
use super::mountinfo::{Device, Mounted, Placed, parse_placed};

/// Processes in other mount namespaces that use a copy of `mount`, which would stay when it goes.
pub(super) fn copies(mount: &Mounted) -> Vec<Holder> {
    let Some(here) = placed("/proc/thread-self/mountinfo") else { return Vec::new() };
    let Some(place) = Place::of(&here, |one| one.id == mount.id) else { return Vec::new() };
    let (until, own) = (Instant::now() + LOOK_FOR, namespace("/proc/thread-self"));
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut without: HashSet<PathBuf> = own.into_iter().collect();
    let mut with: HashMap<PathBuf, HashSet<u64>> = HashMap::new();
    let mut found = Vec::new();
    for process in processes.flatten().take_while(|_| Instant::now() < until) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(space) = namespace(process.path()) else { continue };
        if without.contains(&space) {
            continue;
        }
        if !with.contains_key(&space) {
            let there = placed(process.path().join("mountinfo")).unwrap_or_default();
            let copies = copies_in(&there, mount.device, &place);
            if copies.is_empty() {
                without.insert(space);
                continue;
            }
            with.insert(space.clone(), copies);
        }
        if !with.get(&space).is_some_and(|copies| uses_any(&process.path(), copies, mount.device)) {
            continue;
        }
        found.push(Holder { pid, command: command(&process.path()), by: HeldBy::Copy, path: PathBuf::new() });
        if found.len() == HOLDERS_MAX {
            break;
        }
    }
    found
}

/// True when the file system `device` is mounted in another mount namespace, used there or not.
pub(super) fn is_copied(device: Device) -> bool {
    let until = Instant::now() + LOOK_FOR;
    let mut seen: HashSet<PathBuf> = namespace("/proc/thread-self").into_iter().collect();
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().take_while(|_| Instant::now() < until).any(|process| {
        let is_new = namespace(process.path()).is_some_and(|space| seen.insert(space));
        let there = || placed(process.path().join("mountinfo")).unwrap_or_default();
        is_new && there().iter().any(|mount| mount.device == device)
    })
}

/// Where a mount is, as the kernel sees it: below a mount that may have others to which it passes changes on.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The peer group of the mount above it; changes stay where they are made without one.
    group: Option<u64>,
    /// The mount point on the file system above it.
    path: PathBuf,
}

impl Place {
    fn of(table: &[Placed], is_meant: impl Fn(&Placed) -> bool) -> Option<Self> {
        let one = table.iter().find(|one| is_meant(one))?;
        let above = table.iter().find(|above| above.id == one.parent)?;
        Some(Self { group: above.shared, path: on(above, one)? })
    }
}

/// The mount point of `one` on the file system of `above`.
fn on(above: &Placed, one: &Placed) -> Option<PathBuf> {
    Some(above.root.join(one.at.strip_prefix(&above.at).ok()?))
}

/// The mounts of the device in the table of another namespace that stay when the one at `place` goes.
fn copies_in(table: &[Placed], device: Device, place: &Place) -> HashSet<u64> {
    let follows = |copy: &Placed| {
        let above = table.iter().find(|above| above.id == copy.parent);
        let hears = |above: &Placed| {
            let groups = [above.shared, above.master, above.propagate_from];
            place.group.is_some_and(|group| groups.contains(&Some(group)))
        };
        above.is_some_and(|above| hears(above) && on(above, copy).as_ref() == Some(&place.path))
    };
    table.iter().filter(|one| one.device == device && !follows(one)).map(|copy| copy.id).collect()
}

fn placed(table: impl AsRef<Path>) -> Option<Vec<Placed>> {
    Some(parse_placed(&fs::read(table).ok()?))
}

/// What identifies the mount namespace of a process that may be looked into.
fn namespace(process: impl AsRef<Path>) -> Option<PathBuf> {
    fs::read_link(process.as_ref().join("ns/mnt")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "\
20 1 8:1 / / rw shared:1 - ext4 /dev/a rw
30 20 0:77 / /home/b/m ro shared:9 - fuse.twinshare twinshare:x/y ro
";

    #[track_caller]
    fn check(here: &str, there: &str, expected: bool) {
        let place = Place::of(&parse_placed(here.as_bytes()), |one| one.id == 30).unwrap();
        let device = Device { major: 0, minor: 77 };
        let copies = copies_in(&parse_placed(there.as_bytes()), device, &place);
        assert_eq!(!copies.is_empty(), expected, "{there}");
    }

    #[test]
    fn only_copies_that_stay_count() {
        let nothing = "50 1 8:1 / / rw master:1 - ext4 /dev/a rw\n";
        check(HERE, nothing, false);
        let service = "60 50 0:77 / /home/b/m ro master:9 - fuse.twinshare twinshare:x/y ro\n";
        check(HERE, &format!("{nothing}{service}"), false);
        let private = "50 1 8:1 / / rw - ext4 /dev/a rw\n";
        check(HERE, &format!("{private}{service}"), true);
        // A directory above it, bound elsewhere, still hears of it.
        let elsewhere = "50 1 8:1 /home /srv/home rw master:1 - ext4 /dev/a rw\n";
        let below = "60 50 0:77 / /srv/home/b/m ro master:9 - fuse.twinshare twinshare:x/y ro\n";
        check(HERE, &format!("{elsewhere}{below}"), false);
        // A sandbox binds it to a place of its own.
        let bound = "61 50 0:77 / /opt/project ro master:9 - fuse.twinshare twinshare:x/y ro\n";
        check(HERE, &format!("{nothing}{service}{bound}"), true);
        check(&HERE.replace(" shared:1", ""), &format!("{nothing}{service}"), true);
    }
}
