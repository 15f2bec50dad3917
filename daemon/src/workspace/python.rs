//! What a Python virtual environment refers to outside itself.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Roots;
use super::scan::VENV_FILE;

/// Bytes read of a `pyvenv.cfg` or `.pth` file at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// `.pth` files read in one environment at most.
const PTH_FILES_MAX: usize = 200;

/// The keys of `pyvenv.cfg` that name the base interpreter: `home` (PEP 405), `executable` (venv since 3.11) and
/// `base-executable` (virtualenv).
const INTERPRETER_KEYS: [&str; 3] = ["home", "executable", "base-executable"];

/// Something an environment refers to, as a path of the origin that may be a link or lead out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The path.
    pub(super) path: PathBuf,
    /// What refers to it.
    pub(super) from: PathBuf,
    /// What it is for.
    pub(super) kind: ReferenceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReferenceKind {
    /// The interpreter itself.
    Interpreter,
    /// The directory the interpreter lies in.
    InterpreterDirectory,
    /// A directory from which packages are imported.
    Packages,
}

/// The version of Python an environment was made with, as its `pyvenv.cfg` says.
pub(super) fn version(venv: &Path, roots: &Roots) -> Option<String> {
    let text = read(roots, &venv.join(VENV_FILE));
    value(&text, "version_info").or_else(|| value(&text, "version")).map(str::to_owned)
}

/// Everything `venv` (a path of the origin) refers to outside itself.
pub(super) fn references(venv: &Path, roots: &Roots) -> Vec<Reference> {
    let mut all = interpreters(venv, roots);
    all.extend(configured(venv, roots));
    all.extend(packages(venv, roots));
    all
}

/// `bin/python` and its other names.
fn interpreters(venv: &Path, roots: &Roots) -> Vec<Reference> {
    let bin = venv.join("bin");
    let names = roots.names(&bin).into_iter().filter(|name| is_interpreter(name.as_bytes()));
    let reference =
        |name| Reference { path: bin.join(&name), from: bin.join(&name), kind: ReferenceKind::Interpreter };
    names.map(reference).collect()
}

/// True for `python`, `python3`, `python3.11t` and the like, and not for `python-config`.
fn is_interpreter(name: &[u8]) -> bool {
    let version = name.strip_prefix(b"python").or_else(|| name.strip_prefix(b"pypy"));
    version.is_some_and(|rest| rest.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b't')))
}

fn configured(venv: &Path, roots: &Roots) -> Vec<Reference> {
    let file = venv.join(VENV_FILE);
    let text = read(roots, &file);
    let reference = |key: &str| {
        let path = value(&text, key).map(PathBuf::from).filter(|path| path.is_absolute())?;
        let kind = match key {
            "home" => ReferenceKind::InterpreterDirectory,
            _ => ReferenceKind::Interpreter,
        };
        Some(Reference { path, from: file.clone(), kind })
    };
    INTERPRETER_KEYS.iter().filter_map(|key| reference(key)).collect()
}

/// The directories that `.pth` files add to the import path (the `site` module's documentation), such as packages
/// installed in editable form.
fn packages(venv: &Path, roots: &Roots) -> Vec<Reference> {
    let mut all = Vec::new();
    for file in pth_files(venv, roots) {
        let text = read(roots, &file);
        let paths = text.lines().map(|line| Path::new(line.trim())).filter(|path| path.is_absolute());
        all.extend(paths.map(|path| Reference {
            path: path.into(),
            from: file.clone(),
            kind: ReferenceKind::Packages,
        }));
    }
    all
}

fn pth_files(venv: &Path, roots: &Roots) -> Vec<PathBuf> {
    let lib = venv.join("lib");
    let mut files = Vec::new();
    for version in roots.names(&lib) {
        let packages = lib.join(version).join("site-packages");
        let pth = roots.names(&packages).into_iter().filter(|name| name.as_bytes().ends_with(b".pth"));
        files.extend(pth.map(|name| packages.join(name)));
    }
    files.truncate(PTH_FILES_MAX);
    files
}

/// The value of a key, in the form that the `site` module reads.
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim().eq_ignore_ascii_case(key).then(|| value.trim())
    })
}

/// The beginning of a file as text; empty for one that cannot be read.
fn read(roots: &Roots, origin: &Path) -> String {
    let mut bytes = Vec::new();
    let read = roots.open(origin).map(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Some(Ok(_)) => String::from_utf8_lossy(&bytes).into_owned(),
        Some(Err(_)) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::Root;
    use super::*;

    #[test]
    fn names_of_interpreters() {
        for name in ["python", "python3", "python3.11", "python3.13t", "pypy3.10"] {
            assert!(is_interpreter(name.as_bytes()), "{name}");
        }
        for name in ["python-config", "pythonw", "ipython", "python3.11-config", "pip"] {
            assert!(!is_interpreter(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn an_environment_names_its_interpreter_and_its_packages() {
        let base = tempfile::tempdir().unwrap();
        let packages = base.path().join("v/lib/python3.11/site-packages");
        fs::create_dir_all(&packages).unwrap();
        fs::create_dir_all(base.path().join("v/bin")).unwrap();
        symlink("/opt/py/bin/python3.11", base.path().join("v/bin/python")).unwrap();
        fs::write(base.path().join("v/bin/pip"), "").unwrap();
        let config = "home = /opt/py/bin\ninclude-system-site-packages = false\nversion = 3.11.7\n\
                      executable = /opt/py/bin/python3.11\ncommand = /opt/py/bin/python3.11 -m venv /w/v\n";
        fs::write(base.path().join("v/pyvenv.cfg"), config).unwrap();
        fs::write(packages.join("e.pth"), "/home/a/src/lib\nimport os; x\nrelative\n").unwrap();
        let roots = Roots::new([Root { origin: "/w".into(), here: base.path().into() }]);
        let venv = Path::new("/w/v");
        let found: Vec<_> = references(venv, &roots)
            .into_iter()
            .map(|reference| (reference.path.display().to_string(), reference.kind))
            .collect();
        let expected = [
            ("/w/v/bin/python", ReferenceKind::Interpreter),
            ("/opt/py/bin", ReferenceKind::InterpreterDirectory),
            ("/opt/py/bin/python3.11", ReferenceKind::Interpreter),
            ("/home/a/src/lib", ReferenceKind::Packages),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
        assert_eq!(version(venv, &roots).as_deref(), Some("3.11.7"));
        assert_eq!(version(Path::new("/w/none"), &roots), None);
    }
}
