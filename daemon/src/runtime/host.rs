//! What a plan has to know about this host: its directories, its users' homes, its devices.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Entries hidden one by one because only root may read them, at most (bubblewrap takes 9,000 arguments); beyond,
/// whole directories that hold some are hidden.
const PRIVATE_MAX: usize = 500;

/// Device files a computing environment uses besides the standard ones, by the start of their names in `/dev`.
const DEVICES: [&str; 4] = ["nvidia", "dri", "kfd", "accel"];

/// First user id of people, as opposed to system services (`UID_MIN` in `login.defs`).
const PEOPLE_FROM: u32 = 1000;
/// `nobody`.
const NOBODY: u32 = 65534;

/// What lies at a path, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEntry {
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(String),
    /// Anything else.
    Other,
}

/// The directories of a host, as a plan looks at them. Paths are absolute.
pub trait HostTree {
    /// What lies at `path`, or nothing.
    fn entry(&self, path: &str) -> Option<HostEntry>;

    /// The names in a directory. Names that are not UTF-8 are left out: they cannot be shown.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;
}

/// The directories of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl HostTree for ThisHost {
    fn entry(&self, path: &str) -> Option<HostEntry> {
        let kind = fs::symlink_metadata(path).ok()?.file_type();
        Some(match kind {
            kind if kind.is_dir() => HostEntry::Directory,
            kind if kind.is_symlink() => HostEntry::Symlink(fs::read_link(path).ok()?.to_str()?.to_owned()),
            _ => HostEntry::Other,
        })
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Properties of a host that do not depend on what is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Homes of people other than the caller, and directories that hold homes.
    pub homes: Vec<String>,
    /// Files and directories that only root may read; listed when the caller is root, since its commands could.
    pub private: Vec<String>,
    /// Device files and directories of accelerators.
    pub devices: Vec<String>,
    /// Whether a user namespace can be made. Without it only root can make the others.
    pub user_namespaces: bool,
}

impl HostFacts {
    /// Looks at this host for a caller with the user id `uid`.
    pub fn of_this_host(uid: u32) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self {
            homes: homes(&passwd, uid),
            private: if uid == 0 { private() } else { Vec::new() },
            devices: devices(),
            user_namespaces: user_namespaces(),
        }
    }
}

/// `/home`, `/root` and the homes of people in `passwd` other than the user `uid`.
fn homes(passwd: &str, uid: u32) -> Vec<String> {
    let person = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let id: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        let counts = id != uid && id != NOBODY && (id == 0 || id >= PEOPLE_FROM);
        counts.then(|| home.to_owned())
    };
    let fixed = ["/home", "/root"].map(str::to_owned);
    passwd.lines().filter_map(person).chain(fixed).collect::<BTreeSet<_>>().into_iter().collect()
}

fn devices() -> Vec<String> {
    let names = ThisHost.list("/dev").unwrap_or_default();
    let wanted = |name: &String| DEVICES.iter().any(|start| name.starts_with(start));
    names.into_iter().filter(wanted).map(|name| format!("/dev/{name}")).collect()
}

/// What ordinary users may not read below `/etc` and `/var`: host keys, password hashes, databases.
fn private() -> Vec<String> {
    let mut found = Vec::new();
    collect_private(Path::new("/etc"), 3, &mut found);
    collect_private(Path::new("/var"), 2, &mut found);
    found
}

fn collect_private(directory: &Path, depth: u32, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    if found.len() >= PRIVATE_MAX {
        return found.extend(directory.to_str().map(str::to_owned));
    }
    for entry in entries.flatten() {
        let (Ok(metadata), Ok(path)) = (entry.metadata(), entry.path().into_os_string().into_string()) else {
            continue;
        };
        let kind = metadata.file_type();
        let open_to_all = metadata.mode() & if kind.is_dir() { 0o005 } else { 0o004 };
        if kind.is_symlink() || kind.is_socket() || kind.is_fifo() {
            continue;
        } else if open_to_all == 0 {
            found.push(path);
        } else if kind.is_dir() && depth > 1 {
            collect_private(Path::new(&path), depth - 1, found);
        }
    }
}

/// Whether the kernel makes user namespaces at all. It may still refuse them to ordinary users, which shows when one
/// tries.
fn user_namespaces() -> bool {
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces");
    Path::new("/proc/self/ns/user").exists() && !most.is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_of_people_are_found() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
                      nobody:x:65534:65534::/nonexistent:/bin/false\nbob:x:1001:1001::/data/home/bob:/bin/sh\n\
                      alice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(homes(passwd, 1000), ["/data/home/bob", "/home", "/root"]);
        assert_eq!(homes(passwd, 0), ["/data/home/bob", "/home", "/home/alice", "/root"]);
    }
}
