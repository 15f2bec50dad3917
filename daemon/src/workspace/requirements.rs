//! What a workspace needs from the machine it runs on, because it brings it neither itself nor in a companion.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::python::{Reference, ReferenceKind, references, version};
use super::scan::scan;
use super::{Followed, Roots, elf};

/// Something that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The absolute path.
    pub path: PathBuf,
    /// What needs it, for people.
    pub why: String,
}

/// What the virtual environments in the first of `roots` need outside all of them, by path.
///
/// Works wherever the trees can be read: on their origin, or in mounts on another machine. Blocks on the disk, and in
/// a mount on the peer for some small files.
pub fn requirements(roots: &Roots) -> Vec<Requirement> {
    let mut found = BTreeMap::new();
    let Some(workspace) = roots.all().first() else {
        return Vec::new();
    };
    for venv in scan(workspace).venvs {
        let name = venv.strip_prefix(&workspace.origin).unwrap_or(&venv);
        for reference in references(&venv, roots) {
            if let Some((path, why)) = needed(&reference, &venv, name, roots) {
                found.entry(path).or_insert(why);
            }
        }
    }
    found.into_iter().map(|(path, why)| Requirement { path, why }).collect()
}

/// What one reference needs, with the reason.
fn needed(reference: &Reference, venv: &Path, name: &Path, roots: &Roots) -> Option<(PathBuf, String)> {
    let name = name.display();
    match (roots.follow(&reference.path), reference.kind) {
        // The links in `bin` name the interpreter that lies in there.
        (Followed::Outside(path), ReferenceKind::InterpreterDirectory) if super::detect::is_system(&path) => {
            None
        }
        (Followed::Outside(path), ReferenceKind::Packages) => {
            Some((path, format!("{name} imports packages from it ({})", reference.from.display())))
        }
        (Followed::Outside(path), ReferenceKind::Interpreter | ReferenceKind::InterpreterDirectory) => {
            let made_with =
                version(venv, roots).map(|version| format!(", Python {version}")).unwrap_or_default();
            Some((path, format!("the interpreter of {name}{made_with}")))
        }
        (Followed::Inside { origin, .. }, ReferenceKind::Interpreter) => {
            let loader = elf::loader(&roots.open(&origin)?)?;
            match roots.follow(&loader) {
                Followed::Outside(path) => {
                    Some((path, format!("the dynamic loader of {}", origin.display())))
                }
                Followed::Inside { .. } | Followed::Nowhere => None,
            }
        }
        (Followed::Inside { .. } | Followed::Nowhere, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::Root;
    use super::*;

    struct Bench {
        base: tempfile::TempDir,
    }

    impl Bench {
        /// A workspace `/w` with one environment.
        fn new(interpreter: &str, home: &str) -> Self {
            let base = tempfile::tempdir().unwrap();
            let venv = base.path().join("w/.venv");
            fs::create_dir_all(venv.join("bin")).unwrap();
            symlink(interpreter, venv.join("bin/python")).unwrap();
            fs::write(venv.join("pyvenv.cfg"), format!("home = {home}\nversion = 3.11.2\n")).unwrap();
            Self { base }
        }

        #[track_caller]
        fn check(&self, companions: &[&str], expected: &[(&str, &str)]) {
            let place =
                |origin: &str| Root { origin: origin.into(), here: self.base.path().join(&origin[1..]) };
            let roots = Roots::new(["/w"].iter().chain(companions).map(|origin| place(origin)));
            let found = requirements(&roots);
            let found: Vec<_> = found.iter().map(|r| (r.path.to_str().unwrap(), r.why.as_str())).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_systems_interpreter_is_required() {
        let bench = Bench::new("/usr/bin/python3", "/usr/bin");
        bench.check(&[], &[("/usr/bin/python3", "the interpreter of .venv, Python 3.11.2")]);
    }

    #[test]
    fn an_interpreter_that_is_not_shared_is_required() {
        let bench = Bench::new("/opt/py/bin/python3.11", "/opt/py/bin");
        let why = "the interpreter of .venv, Python 3.11.2";
        bench.check(&[], &[("/opt/py/bin", why), ("/opt/py/bin/python3.11", why)]);
    }

    #[test]
    fn a_shared_interpreter_requires_its_loader() {
        let bench = Bench::new("/opt/py/bin/python3.11", "/opt/py/bin");
        let bin = bench.base.path().join("opt/py/bin");
        fs::create_dir_all(&bin).unwrap();
        let own = std::env::current_exe().unwrap();
        fs::copy(&own, bin.join("python3.11")).unwrap();
        let loader = elf::loader(&fs::File::open(&own).unwrap()).unwrap();
        let why = "the dynamic loader of /opt/py/bin/python3.11";
        bench.check(&["/opt/py"], &[(loader.to_str().unwrap(), why)]);
    }
}
