//! What lies outside a workspace's directory and is needed inside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::companion::too_wide;
use super::python::{Reference, ReferenceKind, references};
use super::scan::scan;
use super::{Followed, Root, Roots};
use crate::home::Home;

/// Companions found one after the other at most: each may lead to a further one.
const ROUNDS_MAX: usize = 16;

/// Links reported at most.
const LEAVING_MAX: usize = 1000;

/// Directories that every machine has its own of; they are never companions.
const SYSTEM: [&str; 12] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/sys", "/dev", "/run"];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// Directories without which the workspace's environments do not work elsewhere.
    pub companions: Vec<FoundCompanion>,
    /// What else leads out of the workspace; the user decides whether it belongs to it.
    pub leaving: Vec<LeavingLink>,
    /// False when the workspace was too large to be looked at wholly.
    pub complete: bool,
}

/// A directory outside the workspace that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCompanion {
    /// Its absolute path.
    pub path: PathBuf,
    /// Why it belongs to the workspace, for people.
    pub why: String,
}

/// Something in the workspace that leads out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingLink {
    /// The link, or the file that names the target, below the workspace.
    pub link: PathBuf,
    /// Where it leads.
    pub target: PathBuf,
}

/// True for a path that every machine has its own of.
pub(super) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system))
}

/// Looks at the workspace in `directory` (absolute, without links). Blocks on the disk for up to some tenths of a
/// second.
pub fn detect(directory: &Path, home: &Home) -> Detected {
    let root = Root::in_place(directory.into());
    let scan = scan(&root);
    let mut roots = Roots::new([root]);
    let references: Vec<_> = scan.venvs.iter().flat_map(|venv| references(venv, &roots)).collect();
    let companions = interpreters(&mut roots, &references, directory, home);
    let links = scan.links.iter().map(|link| (link, link));
    let packages = references
        .iter()
        .filter(|reference| reference.kind == ReferenceKind::Packages)
        .map(|reference| (&reference.from, &reference.path));
    let mut leaving: Vec<_> = links
        .chain(packages)
        .filter_map(|(from, path)| leaving(&roots, directory, from, path))
        .filter(|link| !is_interpreter_of_the_system(link, &references, directory))
        .collect();
    leaving.truncate(LEAVING_MAX);
    Detected { companions, leaving, complete: scan.complete }
}

/// Adds the interpreters' directories to the trees until no reference leads to a further one.
fn interpreters(
    roots: &mut Roots,
    references: &[Reference],
    workspace: &Path,
    home: &Home,
) -> Vec<FoundCompanion> {
    let mut found = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let further = references.iter().find_map(|reference| {
            let Followed::Outside(path) = roots.follow(&reference.path) else {
                return None;
            };
            let prefix = interpreter_prefix(&path).filter(|prefix| may_be_shared(prefix, workspace, home))?;
            let from = reference.from.strip_prefix(workspace).unwrap_or(&reference.from);
            Some(FoundCompanion { path: prefix, why: format!("the Python that {} uses", from.display()) })
        });
        let Some(companion) = further else {
            break;
        };
        roots.push(Root::in_place(companion.path.clone()));
        found.push(companion);
    }
    found
}

fn may_be_shared(prefix: &Path, workspace: &Path, home: &Home) -> bool {
    let real = prefix.canonicalize().unwrap_or_else(|_| prefix.into());
    !is_system(prefix) && too_wide(&real, workspace, home).is_none()
}

/// The directory of a whole Python installation that `path` (an interpreter, or the directory it lies in) belongs to:
/// the one above `bin`, provided that the standard library is there.
fn interpreter_prefix(path: &Path) -> Option<PathBuf> {
    let bin = [Some(path), path.parent()].into_iter().flatten().find(|path| path.ends_with("bin"))?;
    let prefix = bin.parent()?;
    ["lib", "lib64"].iter().any(|lib| has_standard_library(&prefix.join(lib))).then(|| prefix.into())
}

fn has_standard_library(lib: &Path) -> bool {
    let versions = std::fs::read_dir(lib).into_iter().flatten().flatten();
    versions.map(|version| version.path()).any(|version| version.join("os.py").is_file())
}

fn leaving(roots: &Roots, workspace: &Path, from: &Path, path: &Path) -> Option<LeavingLink> {
    let link = from.strip_prefix(workspace).ok()?.into();
    match roots.follow(path) {
        Followed::Outside(target) => Some(LeavingLink { link, target }),
        Followed::Inside { .. } | Followed::Nowhere => None,
    }
}

/// An environment's link to `/usr/bin/python3` is a requirement, and no link that was forgotten.
fn is_interpreter_of_the_system(link: &LeavingLink, references: &[Reference], workspace: &Path) -> bool {
    let interpreters: BTreeSet<_> = references
        .iter()
        .filter(|reference| reference.kind == ReferenceKind::Interpreter)
        .map(|reference| reference.from.as_path())
        .collect();
    is_system(&link.target) && interpreters.contains(workspace.join(&link.link).as_path())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Bench {
        _base: tempfile::TempDir,
        base: PathBuf,
        home: Home,
    }

    impl Bench {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            let base = temporary.path().canonicalize().unwrap();
            let home = Home::isolated(&base.join("home"));
            let bench = Self { _base: temporary, base, home };
            fs::create_dir_all(bench.base.join("w")).unwrap();
            bench
        }

        /// A Python installation as far as it is recognised.
        fn python(&self, prefix: &str) -> PathBuf {
            let prefix = self.base.join(prefix);
            fs::create_dir_all(prefix.join("bin")).unwrap();
            fs::create_dir_all(prefix.join("lib/python3.11")).unwrap();
            fs::write(prefix.join("lib/python3.11/os.py"), "").unwrap();
            fs::write(prefix.join("bin/python3.11"), "").unwrap();
            prefix
        }

        fn link(&self, link: &str, target: impl AsRef<Path>) {
            let link = self.base.join("w").join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }

        fn venv(&self, name: &str, interpreter: &Path, home: &Path) {
            self.link(&format!("{name}/bin/python"), interpreter);
            let config = format!("home = {}\n", home.display());
            fs::write(self.base.join("w").join(name).join("pyvenv.cfg"), config).unwrap();
        }

        #[track_caller]
        fn check(&self, companions: &[&Path], leaving: &[(&str, &Path)]) {
            let found = detect(&self.base.join("w"), &self.home);
            assert_eq!(found.companions.iter().map(|c| c.path.as_path()).collect::<Vec<_>>(), companions);
            let links = found.leaving.iter().map(|l| (l.link.to_str().unwrap(), l.target.as_path()));
            assert_eq!(links.collect::<Vec<_>>(), leaving);
            assert!(found.complete);
        }
    }

    #[test]
    fn an_interpreter_outside_is_a_companion() {
        let bench = Bench::new();
        let python = bench.python("opt/python3.11");
        symlink("python3.11", python.join("bin/python3")).unwrap();
        bench.venv(".venv", &python.join("bin/python3"), &python.join("bin"));
        bench.venv("sub/env", &python.join("bin/python3.11"), &python.join("bin"));
        bench.check(&[&python], &[]);
    }

    #[test]
    fn every_directory_on_the_way_to_an_interpreter_is_one() {
        let bench = Bench::new();
        // As uv lays them out: the environment names a directory that is a link to the one with the patch version.
        let real = bench.python("uv/cpython-3.11.9");
        let minor = bench.base.join("uv/cpython-3.11");
        symlink(&real, &minor).unwrap();
        bench.venv(".venv", &minor.join("bin/python3.11"), &real.join("bin"));
        bench.check(&[&minor, &real], &[]);
    }

    #[test]
    fn an_environment_of_copies_names_its_installation_in_its_file_alone() {
        let bench = Bench::new();
        let python = bench.python("py");
        let bin = bench.base.join("w/.venv/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(python.join("bin/python3.11"), bin.join("python")).unwrap();
        fs::write(
            bench.base.join("w/.venv/pyvenv.cfg"),
            format!("home = {}\n", python.join("bin").display()),
        )
        .unwrap();
        bench.check(&[&python], &[]);
    }

    #[test]
    fn a_chain_of_installations_is_followed() {
        let bench = Bench::new();
        let (first, second) = (bench.python("first"), bench.python("second"));
        fs::remove_file(first.join("bin/python3.11")).unwrap();
        symlink(second.join("bin/python3.11"), first.join("bin/python3.11")).unwrap();
        bench.venv(".venv", &first.join("bin/python3.11"), &first.join("bin"));
        bench.check(&[&first, &second], &[]);
    }

    #[test]
    fn the_systems_interpreter_is_no_companion_and_not_forgotten_either() {
        let bench = Bench::new();
        bench.venv(".venv", Path::new("/usr/bin/python3"), Path::new("/usr/bin"));
        bench.check(&[], &[]);
    }

    #[test]
    fn what_is_no_whole_installation_is_only_reported() {
        let bench = Bench::new();
        let bin = bench.base.join("local/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("python3"), "").unwrap();
        bench.venv(".venv", &bin.join("python3"), &bin);
        bench.check(&[], &[(".venv/bin/python", &bin.join("python3"))]);
    }

    #[test]
    fn an_installation_that_holds_more_than_itself_is_only_reported() {
        let bench = Bench::new();
        // The workspace lies in the prefix.
        let prefix = bench.python("");
        bench.venv(".venv", &prefix.join("bin/python3.11"), &prefix.join("bin"));
        bench.check(&[], &[(".venv/bin/python", &prefix.join("bin/python3.11"))]);
    }

    #[test]
    fn other_ways_out_are_reported() {
        let bench = Bench::new();
        let python = bench.python("py");
        bench.venv("v", &python.join("bin/python3.11"), &python.join("bin"));
        let packages = bench.base.join("w/v/lib/python3.11/site-packages");
        fs::create_dir_all(&packages).unwrap();
        let library = bench.base.join("src/lib");
        let inside = bench.base.join("w/own");
        fs::write(packages.join("e.pth"), format!("{}\n{}\n", library.display(), inside.display())).unwrap();
        let data = bench.base.join("data");
        bench.link("data", &data);
        bench.link("up", "../elsewhere");
        bench.link("fine", "data-here");
        bench.link("node_modules/dep", &library);
        bench.check(
            &[&python],
            &[
                ("data", &data),
                ("up", &bench.base.join("elsewhere")),
                ("node_modules/dep", &library),
                ("v/lib/python3.11/site-packages/e.pth", &library),
            ],
        );
    }
}
