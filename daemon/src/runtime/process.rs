//! Plans the process runtime: which directories the command sees, as arguments for bubblewrap.

use std::collections::BTreeMap;

use super::host::{HostEntry, HostFacts, HostTree};
use super::layout::{Layout, Mount, is_plain, is_within, join};
use super::{Inside, Level, Plan, PlanError, ROOTS_MAX, Request, RootBinding, Runtime};

/// Directories that every program needs as this host has them. A root may lie in them, never at or above them.
const ESSENTIAL: [&str; 19] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/bin",
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/run",
    "/var/tmp",
    "/tmp",
    "/home",
    "/root",
    "/dev/shm",
    "/sys",
];

/// Directories that belong to the kernel or the namespace. No root may lie in them, except below `/dev/shm`.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What of `/run` is shown: name service caches, and where some distributions keep their libraries.
const SHOWN_IN_RUN: [&str; 3] = ["/run/nscd", "/run/opengl-driver", "/run/current-system"];

/// Plans a run. See [`super::plan`].
pub(super) fn plan(request: &Request, facts: &HostFacts, host: &dyn HostTree) -> Result<Plan, PlanError> {
    let seen = see(request, facts, host)?;
    let level = level(request, facts);
    Ok(Plan {
        runtime: Runtime::Process,
        sandbox: arguments(&seen.layout, &level),
        inside: Inside {
            command: request.command.clone(),
            directory: request.directory.clone().unwrap_or_else(|| request.roots[0].origin.clone()),
            environment: environment(request, seen.home, seen.runtime_directory),
            search: request.search.clone(),
            writable: seen.writable,
        },
        level,
        needs: None,
    })
}

/// What a command sees.
pub(super) struct Seen<'h> {
    pub(super) layout: Layout<'h>,
    /// Where it may change files.
    writable: Vec<String>,
    home: String,
    runtime_directory: String,
}

/// The tree that a command sees.
pub(super) fn see<'h>(
    request: &Request,
    facts: &HostFacts,
    host: &'h dyn HostTree,
) -> Result<Seen<'h>, PlanError> {
    check(request)?;
    let mut layout = Layout::new(host)?;
    let shown = ShownAnyway::find(&layout, request);
    let mut writable = vec!["/dev".to_owned(), "/proc".to_owned()];
    for scratch in ["/tmp", "/var/tmp"] {
        writable.push(layout.place(scratch, Mount::Empty { writable: true })?);
    }
    hide(&mut layout, request, facts, &shown);
    let home = home_inside(&request.caller.home, &request.caller.name);
    let runtime_directory = format!("/run/user/{}", request.caller.uid);
    let own = (!request.show_home).then_some(&home);
    for private in own.into_iter().chain([&runtime_directory]) {
        writable.push(layout.place(private, Mount::Empty { writable: true })?);
    }
    layout.set("/proc", Mount::Proc);
    layout.set("/dev", Mount::Dev);
    for device in &facts.devices {
        layout.set(device, Mount::Device);
    }
    writable.extend(place_roots(&mut layout, request)?);
    Ok(Seen { layout, writable, home, runtime_directory })
}

/// The variables that say where things are inside, and the request's own.
fn environment(request: &Request, home: String, runtime_directory: String) -> BTreeMap<String, String> {
    let name = &request.caller.name;
    let fixed = [
        ("HOME", home),
        ("USER", name.clone()),
        ("LOGNAME", name.clone()),
        ("XDG_RUNTIME_DIR", runtime_directory),
    ];
    let mut environment: BTreeMap<_, _> = fixed.map(|(name, value)| (name.to_owned(), value)).into();
    environment.extend(request.environment.clone());
    environment
}

fn check(request: &Request) -> Result<(), PlanError> {
    if request.command.is_empty() {
        return Err(PlanError::NoCommand);
    }
    if request.roots.is_empty() || request.roots.len() > ROOTS_MAX {
        return Err(PlanError::Roots(request.roots.len()));
    }
    let hosts = request.roots.iter().map(|root| &root.host);
    let paths = hosts.chain(request.directory.iter()).chain(request.search.iter());
    paths.chain(places(request).map(|(path, _)| path)).try_for_each(|path| match is_plain(path) {
        true => Ok(()),
        false => Err(PlanError::NotPlain { path: path.clone() }),
    })
}

/// Every place at which a root is to be visible.
fn places(request: &Request) -> impl Iterator<Item = (&String, &RootBinding)> {
    let first = request.roots.iter().map(|root| (&root.origin, root));
    let second = request.roots.iter().filter_map(|root| Some((root.also_at.as_ref()?, root)));
    first.chain(second.filter(|(path, root)| **path != root.origin))
}

/// The home directory inside: the caller's own, unless that is one no directory may cover.
fn home_inside(home: &str, user: &str) -> String {
    let covers = |essential: &&str| is_within(essential, home) && *essential != "/root";
    let usable = is_plain(home) && !ESSENTIAL.iter().any(covers) && !in_kernel(home);
    match usable {
        true => home.to_owned(),
        false => join("/home", if user.contains('/') || user.is_empty() { "user" } else { user }),
    }
}

fn in_kernel(path: &str) -> bool {
    KERNEL.iter().any(|directory| is_within(path, directory))
}

/// Places that are shown although what they lie in is hidden.
struct ShownAnyway {
    /// The caller's home, as it is named and where that leads.
    home: Vec<String>,
    /// Directories and files of `/run`.
    run: Vec<String>,
}

impl ShownAnyway {
    fn find(layout: &Layout<'_>, request: &Request) -> Self {
        let home = match request.show_home && is_plain(&request.caller.home) {
            true => and_real(layout, &request.caller.home),
            false => Vec::new(),
        };
        let resolver = layout.resolve("/etc/resolv.conf").ok().filter(|path| is_within(path, "/run/"));
        let mut run: Vec<_> = SHOWN_IN_RUN.map(str::to_owned).into_iter().chain(resolver).collect();
        run.retain(|path| layout.entry(path).is_some());
        Self { home, run }
    }
}

/// A path and, if it is another, the one it leads to.
fn and_real(layout: &Layout<'_>, path: &str) -> Vec<String> {
    let real = layout.resolve(path).ok().filter(|real| real != path);
    std::iter::once(path.to_owned()).chain(real).collect()
}

/// Hides homes, the node's state, `/run`, and what only root may read.
fn hide(layout: &mut Layout<'_>, request: &Request, facts: &HostFacts, shown: &ShownAnyway) {
    let own_home = (!request.show_home).then_some(&request.caller.home);
    let homes = facts.homes.iter().chain(own_home);
    // Where links lead is looked up first: once hidden, they are gone.
    let homes: Vec<_> = homes.flat_map(|path| and_real(layout, path)).collect();
    let state: Vec<_> = request.hidden.iter().flat_map(|path| and_real(layout, path)).collect();
    let empty = |layout: &mut Layout<'_>, path: &str| {
        if is_plain(path) && !covers_essentials(path) && layout.entry(path) == Some(HostEntry::Directory) {
            layout.set(path, Mount::Empty { writable: false });
        }
    };
    for path in homes.iter().filter(|path| !shown.home.contains(path)) {
        empty(layout, path);
    }
    empty(layout, "/run");
    for path in shown.home.iter().chain(&shown.run) {
        if matches!(layout.cover(path), Some((_, Mount::Empty { .. }))) {
            layout.set(path, Mount::Host);
        }
    }
    for path in &state {
        empty(layout, path);
    }
    for path in &facts.private {
        match layout.entry(path) {
            Some(HostEntry::Other) => layout.set(path, Mount::Blank),
            _ => empty(layout, path),
        }
    }
}

/// True for a directory whose absence would leave the host's programs without something they need. Homes and `/run`
/// are replaced by ones of the namespace.
fn covers_essentials(path: &str) -> bool {
    let replaced = ["/home", "/root", "/run"];
    !replaced.contains(&path)
        && (ESSENTIAL.iter().any(|essential| is_within(essential, path)) || in_kernel(path))
}

/// Puts the roots at their places. Returns those that may be written to.
fn place_roots(layout: &mut Layout<'_>, request: &Request) -> Result<Vec<String>, PlanError> {
    let mut wanted: Vec<_> = places(request).collect();
    wanted.sort_by_key(|(path, _)| path.as_str());
    let mut writable = Vec::new();
    let mut taken: Vec<String> = Vec::new();
    for (path, root) in wanted {
        let place = layout.resolve(path)?;
        let reserved = |place: &str| ESSENTIAL.iter().any(|essential| is_within(essential, place));
        let beyond_reach = in_kernel(&place) && !is_within(&place, "/dev/shm/");
        if reserved(&place) || beyond_reach {
            return Err(PlanError::Reserved { path: path.clone() });
        }
        let is_second = *path != root.origin;
        if taken.contains(&place) {
            if is_second {
                continue;
            }
            return Err(PlanError::Inside { path: path.clone(), other: place });
        }
        let mount = Mount::From { host: root.host.clone(), writable: root.writable };
        let place = match layout.place(path, mount) {
            Err(PlanError::Inside { .. }) if is_second => continue,
            placed => placed?,
        };
        if root.writable {
            writable.push(place.clone());
        }
        taken.push(place);
    }
    Ok(writable)
}

fn level(request: &Request, facts: &HostFacts) -> Level {
    let user = facts.user_namespaces.then_some("user");
    let namespaces = user.into_iter().chain(["mount", "pid", "ipc"]).map(str::to_owned).collect();
    Level {
        namespaces,
        landlock: None,
        system_call_filter: super::filter::program().is_some(),
        home_hidden: !request.show_home,
    }
}

/// The arguments that make bubblewrap build the layout. Mount namespace and "no new privileges" need none.
fn arguments(layout: &Layout<'_>, level: &Level) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    if level.namespaces.iter().any(|kind| kind == "user") {
        add(&["--unshare-user"]);
    }
    add(&["--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--die-with-parent"]);
    if !level.system_call_filter {
        // Nothing else keeps the command from typing into the user's terminal. It costs job control.
        add(&["--new-session"]);
    }
    for (path, mount) in layout.mounts() {
        match mount {
            Mount::Host => add(&["--ro-bind", path, path]),
            // Bubblewrap's own root is an empty directory already.
            Mount::Rebuilt if path == "/" => {}
            Mount::Rebuilt | Mount::Empty { .. } => add(&["--tmpfs", path]),
            Mount::From { host, writable: true } => add(&["--bind", host, path]),
            Mount::From { host, writable: false } => add(&["--ro-bind", host, path]),
            Mount::Symlink(target) => add(&["--symlink", target, path]),
            Mount::Blank => add(&["--ro-bind", "/dev/null", path]),
            Mount::Device => add(&["--dev-bind", path, path]),
            Mount::Proc => add(&["--proc", path]),
            Mount::Dev => add(&["--dev", path]),
        }
    }
    for (path, mount) in layout.mounts().rev() {
        // `/run` takes the step inside, which is mounted last.
        if matches!(mount, Mount::Rebuilt | Mount::Empty { writable: false }) && path != "/run" {
            add(&["--remount-ro", path]);
        }
    }
    arguments
}
