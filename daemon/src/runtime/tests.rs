//! Plans on invented hosts.

use std::collections::BTreeMap;
use std::io;

use super::*;

/// A host made of paths: `/a/` is a directory, `/a -> b` a link, `/a` a file.
pub(super) struct Invented(BTreeMap<String, HostEntry>);

impl Invented {
    pub(super) fn new(extra: &[&str]) -> Self {
        let usual = [
            "/usr/",
            "/usr/bin/",
            "/usr/lib/",
            "/usr/local/",
            "/usr/local/bin/",
            "/bin -> usr/bin",
            "/lib -> usr/lib",
            "/etc/",
            "/etc/shadow",
            "/etc/resolv.conf -> ../run/resolve/stub.conf",
            "/run/",
            "/run/resolve/",
            "/run/resolve/stub.conf",
            "/run/docker.sock",
            "/var/",
            "/var/tmp/",
            "/var/lib/",
            "/tmp/",
            "/proc/",
            "/sys/",
            "/dev/",
            "/home/",
            "/home/me/",
            "/home/me/notes",
            "/home/bob/",
            "/root/",
        ];
        let entry = |line: &&str| match (line.split_once(" -> "), line.strip_suffix('/')) {
            (Some((path, target)), _) => (path.to_owned(), HostEntry::Symlink(target.to_owned())),
            (None, Some(path)) => (path.to_owned(), HostEntry::Directory),
            (None, None) => ((*line).to_owned(), HostEntry::Other),
        };
        Self(usual.iter().chain(extra).map(entry).collect())
    }
}

impl HostTree for Invented {
    fn entry(&self, path: &str) -> Option<HostEntry> {
        if path == "/" {
            return Some(HostEntry::Directory);
        }
        // As in a kernel, links in the middle are followed.
        if let Some(entry) = self.0.get(path) {
            return Some(entry.clone());
        }
        self.0.iter().find_map(|(link, entry)| match entry {
            HostEntry::Symlink(target) => {
                let rest = path.strip_prefix(&format!("{link}/"))?;
                let target = if target.starts_with('/') { target.clone() } else { format!("/{target}") };
                self.entry(&format!("{target}/{rest}"))
            }
            HostEntry::Directory | HostEntry::Other => None,
        })
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let start = format!("{}/", directory.trim_end_matches('/'));
        let names = self.0.keys().filter_map(|path| path.strip_prefix(&start));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }
}

pub(super) fn request(roots: &[(&str, &str)]) -> Request {
    let root = |(host, origin): &(&str, &str)| RootBinding {
        host: (*host).to_owned(),
        origin: (*origin).to_owned(),
        writable: false,
        also_at: None,
    };
    Request {
        roots: roots.iter().map(root).collect(),
        command: vec!["python".to_owned(), "run.py".to_owned()],
        environment: BTreeMap::new(),
        search: Vec::new(),
        directory: None,
        show_home: false,
        caller: Caller { uid: 1000, name: "me".to_owned(), home: "/home/me".to_owned() },
        hidden: vec!["/home/me/.local/state/twinshare".to_owned()],
    }
}

pub(super) fn facts() -> HostFacts {
    HostFacts {
        homes: ["/home", "/home/bob", "/root"].map(str::to_owned).into(),
        private: Vec::new(),
        devices: Vec::new(),
        user_namespaces: true,
    }
}

/// The plan's mounts, one a line: `--tmpfs /a`.
fn mounts(plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for argument in &plan.sandbox {
        match (argument.starts_with("--"), lines.last_mut()) {
            (false, Some(line)) => *line += &format!(" {argument}"),
            _ => lines.push(argument.clone()),
        }
    }
    lines
}

/// Plans `request` and compares the mounts at and below `below`.
#[track_caller]
fn check(extra: &[&str], request: &Request, below: &[&str], expected: &[&str]) {
    let plan = plan(request, &facts(), &Invented::new(extra)).unwrap();
    let concerns = |line: &&String| {
        let place = line.rsplit(' ').next().unwrap_or_default();
        below.iter().any(|directory| place == *directory || place.starts_with(&format!("{directory}/")))
    };
    assert_eq!(mounts(&plan).iter().filter(concerns).collect::<Vec<_>>(), expected, "{:#?}", mounts(&plan));
}

#[track_caller]
fn check_error(extra: &[&str], request: &Request, expected: &PlanError) {
    assert_eq!(&plan(request, &facts(), &Invented::new(extra)).unwrap_err(), expected);
}

#[test]
fn the_host_is_read_only_and_homes_are_empty() {
    let request = request(&[("/m/ws", "/home/alice/ws")]);
    check(
        &["/m/", "/m/ws/", "/srv/"],
        &request,
        &["/usr", "/bin", "/home", "/root", "/srv", "/tmp"],
        &[
            "--symlink usr/bin /bin",
            "--tmpfs /home",
            "--ro-bind /m/ws /home/alice/ws",
            "--tmpfs /home/me",
            "--tmpfs /root",
            "--ro-bind /srv /srv",
            "--tmpfs /tmp",
            "--ro-bind /usr /usr",
            "--remount-ro /root",
            "--remount-ro /home",
        ],
    );
}

#[test]
fn sockets_in_run_are_hidden_and_names_still_resolve() {
    check(
        &[],
        &request(&[("/m", "/w")]),
        &["/run"],
        &[
            "--tmpfs /run",
            "--ro-bind /run/resolve/stub.conf /run/resolve/stub.conf",
            "--tmpfs /run/user/1000",
        ],
    );
}

#[test]
fn a_place_that_exists_is_covered() {
    let request = request(&[("/m/ws", "/data/ws")]);
    check(
        &["/data/", "/data/ws/", "/data/other/"],
        &request,
        &["/data"],
        &["--ro-bind /data /data", "--ro-bind /m/ws /data/ws"],
    );
}

#[test]
fn a_place_that_does_not_exist_finds_room_beside_what_does() {
    let request = request(&[("/m/ws", "/w"), ("/m/1", "/usr/local/py/3.11"), ("/m/2", "/opt/x")]);
    check(
        &["/usr/local/x -> bin"],
        &request,
        &["/w", "/usr", "/opt"],
        &[
            "--ro-bind /m/2 /opt/x",
            "--ro-bind /usr /usr",
            "--tmpfs /usr/local",
            "--ro-bind /usr/local/bin /usr/local/bin",
            "--ro-bind /m/1 /usr/local/py/3.11",
            "--symlink bin /usr/local/x",
            "--ro-bind /m/ws /w",
            "--remount-ro /usr/local",
        ],
    );
}

#[test]
fn a_file_in_the_way_gives_way() {
    check(
        &["/opt/", "/opt/py", "/opt/q/"],
        &request(&[("/m", "/opt/py/bin")]),
        &["/opt"],
        &["--tmpfs /opt", "--ro-bind /m /opt/py/bin", "--ro-bind /opt/q /opt/q", "--remount-ro /opt"],
    );
}

#[test]
fn links_of_the_host_are_followed() {
    let request = request(&[("/m", "/lib/py")]);
    check(
        &[],
        &request,
        &["/lib", "/usr/lib"],
        &["--symlink usr/lib /lib", "--tmpfs /usr/lib", "--ro-bind /m /usr/lib/py", "--remount-ro /usr/lib"],
    );
    let request = super::tests::request(&[("/m", "/loop/py")]);
    check_error(&["/loop -> loop"], &request, &PlanError::Links { path: "/loop/py".to_owned() });
}

#[test]
fn a_home_that_is_a_link_is_hidden_where_it_leads() {
    let extra = ["/data/", "/data/me/", "/data/me/notes"];
    let mut request = request(&[("/m", "/w")]);
    let host = {
        let mut host = Invented::new(&extra);
        host.0.insert("/home/me".to_owned(), HostEntry::Symlink("/data/me".to_owned()));
        host
    };
    let plan = |request: &Request| mounts(&super::plan(request, &facts(), &host).unwrap());
    assert!(plan(&request).contains(&"--tmpfs /data/me".to_owned()));
    assert!(plan(&request).contains(&"--tmpfs /home/me".to_owned()));
    request.show_home = true;
    assert!(!plan(&request).contains(&"--tmpfs /data/me".to_owned()));
    assert!(plan(&request).contains(&"--ro-bind /home/me /home/me".to_owned()));
}

#[test]
fn a_shown_home_keeps_the_nodes_state_hidden() {
    let mut request = request(&[("/m", "/home/me/ws")]);
    request.show_home = true;
    let extra = ["/home/me/.local/", "/home/me/.local/state/", "/home/me/.local/state/twinshare/"];
    check(
        &extra,
        &request,
        &["/home/me"],
        &[
            "--tmpfs /home/me",
            "--ro-bind /home/me/.local /home/me/.local",
            "--tmpfs /home/me/.local/state/twinshare",
            "--ro-bind /home/me/notes /home/me/notes",
            "--ro-bind /m /home/me/ws",
            "--remount-ro /home/me/.local/state/twinshare",
            "--remount-ro /home/me",
        ],
    );
}

#[test]
fn a_clone_is_visible_at_its_own_path_too() {
    let mut request = request(&[("/home/me/twinshare/ws", "/home/alice/ws")]);
    request.roots[0].also_at = Some("/home/me/twinshare/ws".to_owned());
    request.roots[0].writable = true;
    let bound =
        ["--bind /home/me/twinshare/ws /home/alice/ws", "--bind /home/me/twinshare/ws /home/me/twinshare/ws"];
    check(&[], &request, &["/home/alice", "/home/me/twinshare"], &bound);
    let plan = plan(&request, &facts(), &Invented::new(&[])).unwrap();
    assert_eq!(
        plan.inside.writable,
        [
            "/dev",
            "/proc",
            "/tmp",
            "/var/tmp",
            "/home/me",
            "/run/user/1000",
            "/home/alice/ws",
            "/home/me/twinshare/ws",
        ]
    );
}

#[test]
fn companions_are_visible_where_they_are_kept_unless_something_lies_around_it() {
    let kept = "/home/me/.local/state/twinshare/replicas/a/kept/1";
    let with = |origin: &str| {
        let mut request = request(&[("/home/me/ws", origin), (kept, "/opt/py")]);
        for root in &mut request.roots {
            root.also_at = Some(root.host.clone());
        }
        request
    };
    let here = format!("--ro-bind {kept} {kept}");
    let there = format!("--ro-bind {kept} /opt/py");
    check(&[], &with("/home/alice/ws"), &["/opt/py", "/home/me/.local"], &[&here, &there]);
    // A run of the caller who sees the home does not see the rest of what is in the state.
    let state = ["/home/me/.local/", "/home/me/.local/state/", "/home/me/.local/state/twinshare/"];
    let shown = Request { show_home: true, ..with("/home/alice/ws") };
    let hidden = "/home/me/.local/state/twinshare";
    let (empty, last) = (format!("--tmpfs {hidden}"), format!("--remount-ro {hidden}"));
    check(&state, &shown, &["/opt/py", hidden], &[&empty, &here, &there, &last]);
    let covers = "--ro-bind /home/me/ws /home/me/.local";
    check(&[], &with("/home/me/.local"), &["/opt/py", "/home/me/.local"], &[covers, &there]);
}

#[test]
fn what_the_system_needs_cannot_be_covered() {
    for origin in ["/usr", "/usr/bin", "/bin", "/lib", "/etc", "/tmp", "/home", "/proc/x", "/dev/x", "/sys"] {
        let reserved = PlanError::Reserved { path: origin.to_owned() };
        check_error(&[], &request(&[("/m", origin)]), &reserved);
    }
    check(&[], &request(&[("/m", "/dev/shm/ws")]), &["/dev"], &["--dev /dev", "--ro-bind /m /dev/shm/ws"]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    for origin in ["", "/", "w", "/w/", "/w/../x", "/w//x", "/w\0"] {
        let not_plain = PlanError::NotPlain { path: origin.to_owned() };
        check_error(&[], &request(&[("/m", origin)]), &not_plain);
    }
    check_error(&[], &request(&[]), &PlanError::Roots(0));
    let none = Request { command: Vec::new(), ..request(&[("/m", "/w")]) };
    check_error(&[], &none, &PlanError::NoCommand);
    let twice = request(&[("/m", "/w"), ("/n", "/w")]);
    check_error(&[], &twice, &PlanError::Inside { path: "/w".to_owned(), other: "/w".to_owned() });
    let nested = request(&[("/m", "/w"), ("/n", "/w/x")]);
    check_error(&["/m/"], &nested, &PlanError::Inside { path: "/w/x".to_owned(), other: "/w".to_owned() });
    let mounts = ["--ro-bind /m /w", "--ro-bind /n /w/x"];
    check(&["/m/", "/m/x/"], &nested, &["/w"], &mounts);
}

#[test]
fn a_crowded_directory_is_not_rebuilt() {
    let mut host = Invented::new(&["/opt/"]);
    host.0.extend((0..=1024).map(|n| (format!("/opt/{n}"), HostEntry::Other)));
    let crowded = PlanError::Crowded { directory: "/opt".to_owned(), entries: 1025 };
    assert_eq!(plan(&request(&[("/m", "/opt/x")]), &facts(), &host).unwrap_err(), crowded);
}

#[test]
fn a_home_nothing_may_cover_is_replaced() {
    for home in ["/", "/usr/bin", "", "relative", "/dev/shm/me", "/var"] {
        let mut request = request(&[("/m", "/w")]);
        request.caller.home = home.to_owned();
        let plan = plan(&request, &facts(), &Invented::new(&[])).unwrap();
        assert_eq!(plan.inside.environment["HOME"], "/home/me", "{home}");
    }
}

#[test]
fn what_only_root_may_read_is_hidden_from_roots_commands() {
    let facts = HostFacts { private: vec!["/etc/shadow".to_owned(), "/var/lib".to_owned()], ..facts() };
    let plan = plan(&request(&[("/m", "/w")]), &facts, &Invented::new(&[])).unwrap();
    assert!(mounts(&plan).contains(&"--ro-bind /dev/null /etc/shadow".to_owned()));
    assert!(mounts(&plan).contains(&"--tmpfs /var/lib".to_owned()));
}

#[test]
fn the_level_says_what_is_there() {
    let without_users = HostFacts { user_namespaces: false, ..facts() };
    let plan = plan(&request(&[("/m", "/w")]), &without_users, &Invented::new(&[])).unwrap();
    assert!(!plan.sandbox.contains(&"--unshare-user".to_owned()));
    let level = Level { landlock: Some(7), ..plan.level };
    let text =
        "mount, pid and ipc namespaces; Landlock ABI 7; system call filter; no new privileges; home hidden";
    assert_eq!(level.to_string(), text);
    let level = Level { landlock: None, system_call_filter: false, home_hidden: false, ..level };
    let text = "mount, pid and ipc namespaces; no Landlock; no new privileges; home visible, read-only";
    assert_eq!(level.to_string(), text);
}
