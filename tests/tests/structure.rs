//! The repository's own rules, checked against what is there: which package may use which, where versions and their reasons
//! are written, and what the text must not contain.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Each package and the packages of ours it may use. What is not listed is an arrow pointing upwards.
const ARROWS: &[(&str, &[&str])] = &[
    ("twinshare-fs", &[]),
    ("twinshare-transport", &["twinshare-fs"]),
    ("twinshare-daemon", &["twinshare-fs", "twinshare-transport"]),
    ("twinshare", &["twinshare-fs", "twinshare-transport", "twinshare-daemon"]),
    ("twinshare-tests", &["twinshare-fs", "twinshare-transport", "twinshare-daemon"]),
    ("twinshare-benches", &["twinshare-fs", "twinshare-transport", "twinshare-daemon"]),
];

/// What must not be reachable from a package by any path of ordinary dependencies: the invariants that `docs/architecture.md`
/// states as absences.
const ABSENT: &[(&str, &[&str])] = &[
    (
        "twinshare-fs",
        &["quinn", "rustls", "hyper", "axum", "rusqlite", "serde_norway", "utoipa", "clap", "bollard"],
    ),
    ("twinshare-transport", &["hyper", "axum", "rusqlite", "serde_norway", "utoipa", "clap", "bollard"]),
    ("twinshare-daemon", &["clap", "indicatif"]),
];

/// What each package may not name itself, even though it is reachable through one that may.
const UNNAMED: &[(&str, &[&str])] = &[
    ("twinshare-transport", &["fuser"]),
    ("twinshare-daemon", &["fuser", "quinn", "rustls"]),
    ("twinshare", &["fuser", "quinn", "rustls", "rusqlite", "axum", "hyper"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What cargo knows of the workspace: packages by name, with the names of their direct dependencies by kind.
struct Workspace {
    /// Package → (dependency, kind), where kind is "normal", "dev" or "build".
    direct: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Every package in the lock file → its ordinary dependencies as resolved on this platform.
    resolved: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    fn load() -> Result<Workspace> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let args = [
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ];
        let output = Command::new(cargo).args(args).current_dir(root()).output().context("starting cargo")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let packages = list(&metadata["packages"]);
        let name_of: BTreeMap<&str, &str> =
            packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let direct = packages
            .iter()
            .filter(|package| package["source"].is_null())
            .map(|package| (text(&package["name"]).to_owned(), direct(package)))
            .collect();
        let resolved = list(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| (name_of[text(&node["id"])].to_owned(), ordinary(node, &name_of)))
            .fold(BTreeMap::new(), |mut all: BTreeMap<String, BTreeSet<String>>, (name, uses)| {
                all.entry(name).or_default().extend(uses);
                all
            });
        Ok(Workspace { direct, resolved })
    }

    /// Everything reachable from `package` by ordinary dependencies.
    fn reachable(&self, package: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![package];
        while let Some(next) = open.pop() {
            for used in self.resolved.get(next).into_iter().flatten() {
                if seen.insert(used.as_str()) {
                    open.push(used);
                }
            }
        }
        seen
    }

    fn names(&self, package: &str, kind: &str) -> BTreeSet<&str> {
        let all = self.direct.get(package).into_iter().flatten();
        all.filter(|(_, used_as)| used_as == kind).map(|(name, _)| name.as_str()).collect()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn direct(package: &Value) -> BTreeSet<(String, String)> {
    let kind = |value: &Value| value.as_str().unwrap_or("normal").to_owned();
    list(&package["dependencies"])
        .iter()
        .map(|used| (text(&used["name"]).to_owned(), kind(&used["kind"])))
        .collect()
}

fn ordinary(node: &Value, name_of: &BTreeMap<&str, &str>) -> BTreeSet<String> {
    list(&node["deps"])
        .iter()
        .filter(|used| list(&used["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
        .map(|used| name_of[text(&used["pkg"])].to_owned())
        .collect()
}

#[test]
fn no_arrow_points_upwards() -> Result<()> {
    let workspace = Workspace::load()?;
    let known: BTreeSet<&str> = ARROWS.iter().map(|(package, _)| *package).collect();
    let ours: BTreeSet<&str> = workspace.direct.keys().map(String::as_str).collect();
    ensure!(
        known == ours,
        "packages without a rule, or rules without a package: {:?}",
        known.symmetric_difference(&ours)
    );
    for (package, allowed) in ARROWS {
        for kind in ["normal", "dev", "build"] {
            let used = workspace.names(package, kind);
            let upwards: Vec<_> =
                used.iter().filter(|used| ours.contains(**used) && !allowed.contains(used)).collect();
            ensure!(upwards.is_empty(), "{package} must not use {upwards:?} ({kind})");
        }
    }
    Ok(())
}

#[test]
fn what_a_package_must_know_nothing_of_is_not_reachable_from_it() -> Result<()> {
    let workspace = Workspace::load()?;
    for (package, absent) in ABSENT {
        let reachable = workspace.reachable(package);
        ensure!(!reachable.is_empty(), "{package} is gone");
        let found: Vec<_> = absent.iter().filter(|name| reachable.contains(**name)).collect();
        ensure!(found.is_empty(), "{package} reaches {found:?}");
    }
    for (package, unnamed) in UNNAMED {
        let names = workspace.names(package, "normal");
        let found: Vec<_> = unnamed.iter().filter(|name| names.contains(**name)).collect();
        ensure!(found.is_empty(), "{package} names {found:?} itself");
    }
    Ok(())
}

/// The crates that have a line in `docs/dependencies.md`: rows of its first table, whose first cell is the name in backticks.
fn documented() -> Result<BTreeSet<String>> {
    let page = fs::read_to_string(root().join("docs/dependencies.md"))?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let mut names = BTreeSet::new();
    for (name, rest) in rows {
        ensure!(
            rest.split(" |").filter(|cell| !cell.trim().is_empty()).count() == 3,
            "{name}: the row needs four cells"
        );
        ensure!(names.insert(name.to_owned()), "{name} has two rows");
    }
    Ok(names)
}

#[test]
fn every_direct_dependency_has_its_line_and_no_line_is_stale() -> Result<()> {
    let workspace = Workspace::load()?;
    let used: BTreeSet<String> = workspace
        .direct
        .values()
        .flatten()
        .map(|(name, _)| name.clone())
        .filter(|name| !workspace.direct.contains_key(name))
        .collect();
    let documented = documented()?;
    let missing: Vec<_> = used.difference(&documented).collect();
    ensure!(missing.is_empty(), "docs/dependencies.md has no line for {missing:?}");
    let stale: Vec<_> = documented.difference(&used).collect();
    ensure!(stale.is_empty(), "docs/dependencies.md has lines for what nothing uses: {stale:?}");
    Ok(())
}

/// The lines of a manifest's dependency sections.
fn dependency_lines(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter(move |line| {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
            return false;
        }
        inside && !line.trim().is_empty() && !line.starts_with('#')
    })
}

#[test]
fn versions_are_written_in_the_root_manifest_alone_and_all_are_used() -> Result<()> {
    let mut inherited = BTreeSet::new();
    for package in ["fs", "transport", "daemon", "cli", "tests", "benches"] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml"))?;
        for line in dependency_lines(&manifest) {
            ensure!(
                line.contains("workspace = true"),
                "{package}/Cargo.toml chooses a version itself: {line}"
            );
            inherited.extend(line.split(['.', ' ']).next().map(str::to_owned));
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    for line in dependency_lines(&manifest) {
        let name = line.split(' ').next().unwrap_or_default();
        ensure!(
            inherited.contains(name),
            "the root manifest chooses a version of {name}, which no package uses"
        );
    }
    Ok(())
}

/// The text files of the repository, as git knows them.
fn tracked() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned())).collect())
}

/// A thing that no file may say, and the file that has to say it in order to forbid it.
struct Forbidden {
    what: &'static str,
    found: fn(&str) -> bool,
    in_files: fn(&Path) -> bool,
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

const FORBIDDEN: &[Forbidden] = &[
    Forbidden {
        what: "an unfinished thought: finish it or file it",
        found: |line| ["TODO", "FIXME", "HACK"].iter().any(|word| line.contains(word)),
        in_files: |_| true,
    },
    Forbidden {
        what: "the host of a package registry: use the ordinary client's default",
        found: |line| {
            ["pypi.org", "pythonhosted", "crates.io/", "registry.npmjs", "deb.debian.org"]
                .iter()
                .any(|host| line.contains(host))
        },
        in_files: |_| true,
    },
    Forbidden {
        what: "a path of one machine",
        found: |line| {
            ["/work/", "/root/.cargo", "/root/.pyenv", "/home/runner"].iter().any(|path| line.contains(path))
        },
        in_files: |_| true,
    },
    Forbidden {
        what: "a lint switched off without its reason (use #[expect(..., reason = \"...\")])",
        found: |line| line.trim_start().starts_with("#[allow(") || line.trim_start().starts_with("#![allow("),
        in_files: is_rust,
    },
];

#[test]
fn no_file_says_what_none_may() -> Result<()> {
    let mut wrong = Vec::new();
    for path in tracked()? {
        let exempt = path.ends_with("tests/tests/structure.rs") || path.ends_with("Cargo.lock");
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        if exempt {
            continue;
        }
        for rule in FORBIDDEN.iter().filter(|rule| (rule.in_files)(&path)) {
            let lines = text.lines().enumerate().filter(|(_, line)| (rule.found)(line));
            wrong.extend(lines.map(|(number, line)| {
                format!("{}:{}: {} ({})", path.display(), number + 1, line.trim(), rule.what)
            }));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_source_file_says_first_what_it_is() -> Result<()> {
    let silent: Vec<_> = tracked()?
        .into_iter()
        .filter(|path| is_rust(path))
        .filter(|path| fs::read_to_string(root().join(path)).is_ok_and(|text| !text.starts_with("//!")))
        .collect();
    ensure!(silent.is_empty(), "{silent:?} should begin with a line that says what they are");
    Ok(())
}
