//! What is to be edited in some trees: nothing is changed here.

use std::collections::HashSet;
use std::io;

use rustix::fs::FileType;

use super::conda;
use super::edit::{BINARY_BYTES_MAX, Edit, Target};
use super::find::{Environment, EnvironmentKind, find, libraries};
use super::moves::Moves;
use super::tree::{Tree, join};
use super::{EDITS_MAX, Left, Relocation};
use crate::api::wire::EditKind;
use crate::workspace::Root;

/// Bytes of the paths in all edits at most: they are written down and shown.
const PATHS_BYTES_MAX: usize = 8 << 20;

/// Lists of digests that are looked at, at most: one for each package.
const LISTS_MAX: usize = 10_000;

/// How shells' files are called that activate an environment.
const ACTIVATION: [&str; 2] = ["activate", "deactivate"];

/// Looks at the trees. Blocks on the disk: for a tree of a million files, a second or two.
pub(super) fn plan(roots: &[Root], moves: &Moves) -> Relocation {
    let mut planner =
        Planner { roots, moves, planned: HashSet::new(), bytes: 0, found: Relocation::default() };
    for (number, root) in roots.iter().enumerate() {
        match Tree::open(&root.here) {
            Ok(tree) => planner.tree(number, &tree),
            Err(error) => planner.left(number, "", &format!("it cannot be looked at: {error}")),
        }
    }
    planner.found
}

struct Planner<'p> {
    roots: &'p [Root],
    moves: &'p Moves,
    /// Files that were looked at, each with its root: one is edited once.
    planned: HashSet<(usize, String)>,
    bytes: usize,
    found: Relocation,
}

/// A tree and its number.
#[derive(Clone, Copy)]
struct In<'t>(usize, &'t Tree);

impl Planner<'_> {
    fn tree(&mut self, root: usize, tree: &Tree) {
        let found = find(tree);
        for environment in &found.environments {
            self.environment(In(root, tree), environment);
        }
        for (path, target) in found.links {
            self.link(root, path, target);
        }
        if !found.complete {
            self.left(root, "", "it has too many names or levels for all of it to be looked at");
        }
    }

    fn environment(&mut self, tree: In<'_>, environment: &Environment) {
        let path = environment.path.as_str();
        match environment.kind {
            EnvironmentKind::Virtual => self.file(tree, join(path, "pyvenv.cfg"), EditKind::Configuration),
            EnvironmentKind::Conda => self.conda(tree, path),
            EnvironmentKind::Python => {}
        }
        self.programs(tree, path);
        self.kernels(tree, path);
        let packages: Vec<_> =
            libraries(tree.1, path).iter().map(|library| join(library, "site-packages")).collect();
        packages.iter().for_each(|packages| self.packages(tree, packages));
        packages.iter().for_each(|packages| self.records(tree, packages));
    }

    fn programs(&mut self, tree: In<'_>, environment: &str) {
        let bin = join(environment, "bin");
        for (name, kind) in tree.1.list(&bin) {
            let path = join(&bin, &name);
            match kind {
                FileType::Symlink => {
                    if let Some(target) = tree.1.target(&path) {
                        self.link(tree.0, path, target);
                    }
                }
                FileType::RegularFile if is_activation(&name) => self.file(tree, path, EditKind::Activation),
                FileType::RegularFile => self.file(tree, path, EditKind::Script),
                _ => {}
            }
        }
    }

    fn kernels(&mut self, tree: In<'_>, environment: &str) {
        let kernels = join(environment, "share/jupyter/kernels");
        for (name, _) in tree.1.list(&kernels) {
            self.file(tree, join(&join(&kernels, &name), "kernel.json"), EditKind::Kernel);
        }
    }

    fn packages(&mut self, tree: In<'_>, packages: &str) {
        for (name, kind) in tree.1.list(packages) {
            let path = join(packages, &name);
            match kind {
                FileType::Symlink => {
                    if let Some(target) = tree.1.target(&path) {
                        self.link(tree.0, path, target);
                    }
                }
                FileType::RegularFile if name.ends_with(".pth") || name.ends_with(".egg-link") => {
                    self.file(tree, path, EditKind::Paths);
                }
                FileType::RegularFile if is_finder(&name) => self.file(tree, path, EditKind::Finder),
                FileType::Directory if name.ends_with(".dist-info") => {
                    self.file(tree, join(&path, "direct_url.json"), EditKind::DirectUrl);
                }
                _ => {}
            }
        }
    }

    fn records(&mut self, tree: In<'_>, packages: &str) {
        for (name, kind) in tree.1.list(packages) {
            if kind == FileType::Directory && name.ends_with(".dist-info") {
                self.list(tree.0, join(&join(packages, &name), "RECORD"), EditKind::Record);
            }
        }
    }

    fn conda(&mut self, tree: In<'_>, environment: &str) {
        for document in self.documents(tree, environment) {
            let Ok(content) = tree.1.read(&document, BINARY_BYTES_MAX) else { continue };
            self.list(tree.0, document, EditKind::CondaDigests);
            for prefixed in conda::prefixed(&content) {
                let kind = match prefixed.placeholder_bytes {
                    Some(_) => EditKind::CondaBinary,
                    None => EditKind::CondaText,
                };
                let path = join(environment, &prefixed.path);
                let placeholder_bytes = prefixed.placeholder_bytes.unwrap_or(0);
                self.target(tree.1, Target { root: tree.0, path, kind, placeholder_bytes });
            }
        }
    }

    /// What conda keeps of its packages, a document each.
    fn documents(&self, tree: In<'_>, environment: &str) -> Vec<String> {
        let directory = join(environment, "conda-meta");
        let names = tree.1.list(&directory).into_iter().map(|(name, _)| name);
        names.filter(|name| name.ends_with(".json")).map(|name| join(&directory, &name)).collect()
    }

    fn list(&mut self, root: usize, path: String, kind: EditKind) {
        if self.found.lists.len() < LISTS_MAX {
            self.found.lists.push(Target { root, path, kind, placeholder_bytes: 0 });
        }
    }

    fn file(&mut self, tree: In<'_>, path: String, kind: EditKind) {
        self.target(tree.1, Target { root: tree.0, path, kind, placeholder_bytes: 0 });
    }

    fn target(&mut self, tree: &Tree, target: Target) {
        if self.planned.contains(&(target.root, target.path.clone())) {
            return;
        }
        let content = match tree.read(&target.path, target.bytes_max()) {
            Ok(content) => content,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return;
            }
            // A program that cannot be read, or is large, is hardly a script.
            Err(_) if target.kind == EditKind::Script => return,
            Err(error) => {
                return self.left(target.root, &target.path, &format!("it cannot be read: {error}"));
            }
        };
        match target.rewritten(&content, self.moves, &[]) {
            Ok(None) => {}
            Ok(Some(rewritten)) => self.add(Edit::of_file(target, &content, &rewritten)),
            Err(unfit) => {
                self.left(target.root, &target.path, &unfit.to_string());
                self.planned.insert((target.root, target.path));
            }
        }
    }

    fn link(&mut self, root: usize, path: String, target: String) {
        if let Some(edit) = Edit::of_link(root, path, target, self.moves) {
            self.add(edit);
        }
    }

    fn add(&mut self, edit: Edit) {
        let target = &edit.target;
        let bytes = target.path.len()
            + edit.replaced.iter().map(|path| path.from.len() + path.to.len()).sum::<usize>();
        if self.found.edits.len() >= EDITS_MAX || self.bytes + bytes > PATHS_BYTES_MAX {
            return self.left(target.root, &target.path, "there are too many others");
        }
        if self.planned.insert((target.root, target.path.clone())) {
            self.bytes += bytes;
            self.found.edits.push(edit);
        }
    }

    fn left(&mut self, root: usize, path: &str, reason: &str) {
        self.found.add_left(Left { root, path: path.to_owned(), reason: reason.to_owned() });
        debug_assert!(root < self.roots.len());
    }
}

fn is_activation(name: &str) -> bool {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    ACTIVATION.iter().any(|known| stem.eq_ignore_ascii_case(known))
}

/// True for modules that setuptools, meson-python and scikit-build-core make for packages installed in editable form.
fn is_finder(name: &str) -> bool {
    name.ends_with(".py")
        && (name.starts_with("__editable__")
            || name.ends_with("_editable_loader.py")
            || name.ends_with("_editable.py"))
}
