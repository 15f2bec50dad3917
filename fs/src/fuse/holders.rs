//! Who keeps a mount busy, found as `fuser -m` finds it: in what every process has open, mapped or as its directory.
//!
//! Best effort: processes of other users show nothing, and processes in other mount namespaces name other paths.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::mountinfo::{Device, Mounted, mount_id};

/// Processes named at most; a person closes a few programs and tries again.
pub(super) const HOLDERS_MAX: usize = 8;
/// How long to look: a machine may run very many processes.
pub(super) const LOOK_FOR: Duration = Duration::from_secs(3);

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// How it uses it.
    pub by: HeldBy,
    /// What it uses, below the mount point; empty for the mount point itself.
    pub path: PathBuf,
}

/// How a process uses a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldBy {
    /// Its working directory lies there.
    WorkingDirectory,
    /// Its root directory lies there.
    RootDirectory,
    /// It runs a program from there.
    Program,
    /// It has a file open.
    OpenFile,
    /// It has a file mapped.
    MappedFile,
    /// It uses a copy of the mount where it runs: in a sandbox or a container.
    Copy,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.by == HeldBy::WorkingDirectory { "/" } else { "" };
        let path = self.path.as_os_str().as_bytes().escape_ascii();
        match (self.path.as_os_str().is_empty(), self.by) {
            (_, HeldBy::Copy) => write!(f, "{} (pid {}) in a sandbox or container", self.command, self.pid),
            (true, _) => write!(f, "{} (pid {})", self.command, self.pid),
            (false, HeldBy::Program) => write!(f, "{} (pid {}), run from {path}", self.command, self.pid),
            (false, _) => write!(f, "{} (pid {}) in {path}{slash}", self.command, self.pid),
        }
    }
}

/// Those who use `mount`, one line a process.
pub(super) fn holders(mount: &Mounted) -> Vec<Holder> {
    let until = Instant::now() + LOOK_FOR;
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .take_while(|_| Instant::now() < until)
        .filter_map(|process| Some((process.file_name().to_str()?.parse().ok()?, process.path())))
        .filter_map(|(pid, process)| holder(pid, &process, mount))
        .take(HOLDERS_MAX)
        .collect()
}

fn holder(pid: u32, process: &Path, mount: &Mounted) -> Option<Holder> {
    let (by, path) = use_of(process, mount)?;
    Some(Holder { pid, command: command(process), by, path })
}

/// The name of a process.
pub(super) fn command(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned()
}

/// The first use found; the working directory first, since that is what people forget.
fn use_of(process: &Path, mount: &Mounted) -> Option<(HeldBy, PathBuf)> {
    let link = |by, name: &str| used(&process.join(name), mount).map(|path| (by, path));
    link(HeldBy::WorkingDirectory, "cwd")
        .or_else(|| link(HeldBy::RootDirectory, "root"))
        .or_else(|| link(HeldBy::Program, "exe"))
        .or_else(|| open_file(process, mount).map(|path| (HeldBy::OpenFile, path)))
        .or_else(|| mapped_file(process, mount).map(|path| (HeldBy::MappedFile, path)))
}

/// Where below the mount point a link of `/proc` leads. The path alone does not tell: a replica's own directory lies
/// beneath the mount and has the same one.
fn used(link: &Path, mount: &Mounted) -> Option<PathBuf> {
    let path = below(&fs::read_link(link).ok()?, mount)?;
    (lies_on(link)? == mount.id).then_some(path)
}

/// True when the process uses one of the mounts `ids`, which show the file system `device`. By what path does not matter:
/// in another mount namespace, names lead elsewhere.
pub(super) fn uses_any(process: &Path, ids: &HashSet<u64>, device: Device) -> bool {
    let uses = |link: &Path| lies_on(link).is_some_and(|id| ids.contains(&id));
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|file| file.path());
    ["cwd", "root", "exe"].iter().any(|name| uses(&process.join(name)))
        // Sockets, pipes and the like have no path.
        || files.filter(|file| fs::read_link(file).is_ok_and(|path| path.is_absolute())).any(|file| uses(&file))
        || maps(process, device).is_some_and(|maps| !maps.is_empty())
}

/// The mount on which what a link of `/proc` leads to lies.
fn lies_on(link: &Path) -> Option<u64> {
    let opened = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    mount_id(&opened)
}

fn open_file(process: &Path, mount: &Mounted) -> Option<PathBuf> {
    let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
    files.find_map(|file| used(&file.path(), mount))
}

fn mapped_file(process: &Path, mount: &Mounted) -> Option<PathBuf> {
    maps(process, mount.device)?.iter().find_map(|line| below(mapped_path(line)?, mount))
}

/// The lines of a process's `maps` that show files of the device.
fn maps(process: &Path, device: Device) -> Option<Vec<Vec<u8>>> {
    let maps = fs::read(process.join("maps")).ok()?;
    let device = format!(" {:02x}:{:02x} ", device.major, device.minor);
    let on_device = |line: &&[u8]| line.windows(device.len()).any(|part| part == device.as_bytes());
    Some(maps.split(|byte| *byte == b'\n').filter(on_device).map(<[u8]>::to_owned).collect())
}

/// The path in a line of `maps`: `start-end perms offset device inode   path`.
fn mapped_path(line: &[u8]) -> Option<&Path> {
    let start = line.iter().position(|byte| *byte == b'/')?;
    Some(Path::new(OsStr::from_bytes(&line[start..])))
}

fn below(path: &Path, mount: &Mounted) -> Option<PathBuf> {
    path.strip_prefix(&mount.at).ok().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_what_it_has_open() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().canonicalize().unwrap();
        let file = fs::File::create(at.join("x")).unwrap();
        let device = Device { major: 0, minor: 0 };
        let mount = Mounted { id: mount_id(&file).unwrap(), device, at, fs_type: "x".into() };
        let found = holders(&mount);
        let own = found.iter().find(|holder| holder.pid == std::process::id()).unwrap();
        assert_eq!((own.by, own.path.as_path()), (HeldBy::OpenFile, Path::new("x")));
        assert_eq!(holders(&Mounted { id: mount.id + 1_000_000, ..mount.clone() }), []);
        let nowhere = Device { major: 4000, minor: 4000 };
        let uses = |id| uses_any(Path::new("/proc/self"), &HashSet::from([id]), nowhere);
        assert!(uses(mount.id) && !uses(mount.id + 1_000_000));
        drop(file);
        assert_eq!(holders(&mount), []);
    }

    #[test]
    fn a_holder_is_described_for_people() {
        let holder = |by, path: &str| Holder { pid: 4711, command: "bash".into(), by, path: path.into() };
        assert_eq!(holder(HeldBy::WorkingDirectory, "src").to_string(), "bash (pid 4711) in src/");
        assert_eq!(holder(HeldBy::WorkingDirectory, "").to_string(), "bash (pid 4711)");
        assert_eq!(holder(HeldBy::OpenFile, "a\n").to_string(), "bash (pid 4711) in a\\n");
        assert_eq!(holder(HeldBy::Copy, "").to_string(), "bash (pid 4711) in a sandbox or container");
        assert_eq!(holder(HeldBy::Program, "bin/x").to_string(), "bash (pid 4711), run from bin/x");
    }

    #[test]
    fn a_mapped_path_may_hold_spaces() {
        let line = b"7f00-7f01 r--p 00000000 00:4d 12                       /m/a b";
        assert_eq!(mapped_path(line), Some(Path::new("/m/a b")));
        assert_eq!(mapped_path(b"7f00-7f01 rw-p 00000000 00:00 0 [heap]"), None);
    }
}
