//! Where the other nodes of this user keep their things, so that a run of one can hide what belongs to all.
//!
//! A node whose home was moved by [`HOME_VARIABLE`](super::HOME_VARIABLE) can be anywhere, and nothing about a
//! directory tells from outside that a key lies in it. So every node leaves a note in one place that all of a user's
//! nodes find, whatever their homes: `.local/state/twinshare/homes` in the user's home directory. A note is a symbolic
//! link, one for each directory of a node: it is made in one step, holds any path, and making it again changes nothing.
//! Notes are not removed, since the disk with a home may come and go; those that lead nowhere hide nothing.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Home, HomeError, make_private};

/// Directories of other nodes that are read at most: each becomes an argument of a run's sandbox.
const OTHERS_MAX: usize = 512;

/// What every run has for itself, and shows of this machine nothing: what lies there needs no note.
const NEVER_SHOWN: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// The directory with the notes, for the user with this home directory.
pub(super) fn directory(user_home: &Path) -> PathBuf {
    user_home.join(".local/state/twinshare/homes")
}

impl Home {
    /// Leaves word of this home for the user's other nodes. Without a home directory of the user there is no place for
    /// it, and nothing is done.
    pub fn tell_others(&self) -> Result<(), HomeError> {
        let Some(notes) = &self.notes else { return Ok(()) };
        let shown = |own: &&Path| !NEVER_SHOWN.iter().any(|scratch| own.starts_with(scratch));
        let own: Vec<_> = self.own_directories().into_iter().filter(shown).collect();
        if own.is_empty() {
            return Ok(());
        }
        if let Some(state) = notes.parent() {
            make_private(state)?;
        }
        make_private(notes)?;
        for own in own {
            let note = notes.join(blake3::hash(own.as_os_str().as_encoded_bytes()).to_hex().as_str());
            match symlink(own, &note) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(HomeError::Disk { path: note, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The directories of this node, and those of the user's other nodes that left word: no run sees them, and none is
    /// shared. Blocks on the disk.
    pub fn directories_of_nodes(&self) -> Vec<PathBuf> {
        let mut all: Vec<_> = self.own_directories().map(Path::to_owned).into();
        let Some(notes) = &self.notes else { return all };
        all.extend(notes.parent().map(Path::to_owned));
        let links = fs::read_dir(notes).into_iter().flatten().flatten();
        let targets = links.filter_map(|note| fs::read_link(note.path()).ok());
        all.extend(targets.filter(|target| target.is_absolute()).take(OTHERS_MAX));
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::HOME_VARIABLE;
    use super::*;

    fn home(user: &Path, isolated: Option<&str>) -> Home {
        Home::resolve(|name| match name {
            "HOME" => Some(user.into()),
            HOME_VARIABLE => isolated.map(Into::into),
            _ => None,
        })
        .unwrap()
    }

    #[test]
    fn the_nodes_of_a_user_know_each_others_homes() {
        let user = tempfile::tempdir().unwrap();
        let (default, second) = (home(user.path(), None), home(user.path(), Some("/srv/two")));
        let of_second = ["/srv/two/cache", "/srv/two/config", "/srv/two/state"].map(PathBuf::from);
        let known = |home: &Home| {
            let all = home.directories_of_nodes();
            of_second.iter().all(|path| all.contains(path))
        };
        assert!(known(&second) && !known(&default));
        second.tell_others().unwrap();
        second.tell_others().unwrap();
        assert!(known(&second) && known(&default));
        assert!(
            default
                .own_directories()
                .iter()
                .all(|own| default.directories_of_nodes().contains(&(*own).into()))
        );
        // Where the notes lie is hidden, too, although no node may ever have used the default home.
        assert!(second.directories_of_nodes().contains(&user.path().join(".local/state/twinshare")));
    }

    #[test]
    fn a_home_that_no_run_sees_leaves_nothing() {
        let user = tempfile::tempdir().unwrap();
        home(user.path(), Some("/var/tmp/demo/anna")).tell_others().unwrap();
        assert_eq!(fs::read_dir(user.path()).unwrap().count(), 0);
        Home::isolated(Path::new("/srv/two")).tell_others().unwrap();
    }
}
