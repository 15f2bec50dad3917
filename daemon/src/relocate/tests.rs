//! Relocation of whole trees, undisturbed, interrupted, and while somebody else works in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};

use super::*;
use crate::api::wire::EditKind;

/// Two trees that lie elsewhere than on their origin: a workspace at `/w/demo` and an interpreter at `/opt/py`.
struct Bench {
    _base: tempfile::TempDir,
    base: PathBuf,
    roots: Vec<Root>,
}

fn record_line(path: &str, content: &[u8]) -> String {
    format!("{path},sha256={},{}\n", BASE64URL_NOPAD.encode(digest(&SHA256, content).as_ref()), content.len())
}

const SCRIPT: &str = "#!/w/demo/v/bin/python\nimport sys # /w/demo\n";

impl Bench {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        let root = |origin: &str, name: &str| Root { origin: origin.into(), here: base.join(name) };
        let roots = vec![root("/w/demo", "here"), root("/opt/py", "kept/1")];
        let bench = Self { roots, base, _base: temporary };
        bench.write("here/v/pyvenv.cfg", "home = /opt/py/bin\nversion = 3.11.7\n");
        bench.link("here/v/bin/python", "/opt/py/bin/python3.11");
        bench.link("here/v/bin/python3", "python");
        bench.write("here/v/bin/activate", "VIRTUAL_ENV=\"/w/demo/v\"\nexport VIRTUAL_ENV\n");
        bench.write("here/v/bin/hello", SCRIPT);
        fs::set_permissions(bench.at("here/v/bin/hello"), fs::Permissions::from_mode(0o755)).unwrap();
        let packages = "here/v/lib/python3.11/site-packages";
        bench.write(&format!("{packages}/e.pth"), "/w/demo/src\nimport os # /w/demo\n");
        bench.write(&format!("{packages}/__editable___e_finder.py"), "MAPPING = {'e': '/w/demo/src/e'}\n");
        bench.write(&format!("{packages}/other.py"), "'/w/demo'\n");
        bench.write(&format!("{packages}/e-1.dist-info/direct_url.json"), "{\"url\": \"file:///w/demo\"}");
        let record =
            record_line("../../../bin/hello", SCRIPT.as_bytes()) + &record_line("e/__init__.py", b"");
        bench.write(&format!("{packages}/e-1.dist-info/RECORD"), &record);
        bench.write("here/notes.txt", "it lies in /w/demo\n");
        bench.link("here/data", "/opt/py/data");
        bench.link("here/elsewhere", "/srv/data");
        bench.write("kept/1/lib/python3.11/os.py", "");
        bench.write("kept/1/bin/python3.11", "\x7fELF\0/opt/py/lib");
        bench.write("kept/1/bin/pip3", "#!/opt/py/bin/python3.11\nx\n");
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
    }

    fn link(&self, name: &str, target: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        symlink(target, self.at(name)).unwrap();
    }

    /// Every name with what it holds, with the bench's own place as `@`.
    fn all(&self) -> BTreeMap<String, String> {
        let (mut all, mut ahead) = (BTreeMap::new(), vec![self.base.clone()]);
        while let Some(directory) = ahead.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                let content = match () {
                    () if kind.is_dir() => {
                        ahead.push(path);
                        continue;
                    }
                    () if kind.is_symlink() => fs::read_link(&path).unwrap().to_str().unwrap().to_owned(),
                    () => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
                };
                let name = path.strip_prefix(&self.base).unwrap().to_str().unwrap().to_owned();
                all.insert(name, content.replace(self.base.to_str().unwrap(), "@"));
            }
        }
        all
    }

    /// Everything that is different from what it was `before`.
    fn different(&self, before: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let all = self.all();
        assert_eq!(all.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        all.into_iter().filter(|(name, content)| before[name] != *content).collect()
    }

    fn relocate(&self) -> Relocation {
        let mut relocation = Relocation::plan(&self.roots);
        while !relocation.is_done() {
            relocation = written(&relocation);
            relocation.advance(&self.roots, "cafe").unwrap();
        }
        relocation
    }
}

/// As it is read back.
fn written(relocation: &Relocation) -> Relocation {
    serde_json::from_slice(&serde_json::to_vec(relocation).unwrap()).unwrap()
}

/// What the bench is to become: name and content of everything that changes.
fn expected() -> BTreeMap<String, String> {
    let packages = "here/v/lib/python3.11/site-packages";
    let all = [
        ("here/v/pyvenv.cfg".to_owned(), "home = @/kept/1/bin\nversion = 3.11.7\n"),
        ("here/v/bin/python".to_owned(), "@/kept/1/bin/python3.11"),
        ("here/v/bin/activate".to_owned(), "VIRTUAL_ENV=\"@/here/v\"\nexport VIRTUAL_ENV\n"),
        ("here/v/bin/hello".to_owned(), "#!@/here/v/bin/python\nimport sys # /w/demo\n"),
        (format!("{packages}/e.pth"), "@/here/src\nimport os # /w/demo\n"),
        (format!("{packages}/__editable___e_finder.py"), "MAPPING = {'e': '@/here/src/e'}\n"),
        (format!("{packages}/e-1.dist-info/direct_url.json"), "{\"url\": \"file://@/here\"}"),
        ("here/data".to_owned(), "@/kept/1/data"),
        ("kept/1/bin/pip3".to_owned(), "#!@/kept/1/bin/python3.11\nx\n"),
    ];
    all.map(|(name, content)| (name, content.to_owned())).into()
}

const RECORD: &str = "here/v/lib/python3.11/site-packages/e-1.dist-info/RECORD";

/// Compares all but the list of digests, and that with the file in it.
#[track_caller]
fn check_different(bench: &Bench, before: &BTreeMap<String, String>) {
    let mut found = bench.different(before);
    let record = found.remove(RECORD).unwrap();
    let script = fs::read(bench.at("here/v/bin/hello")).unwrap();
    assert_eq!(record, record_line("../../../bin/hello", &script) + &record_line("e/__init__.py", b""));
    assert_eq!(found, expected());
}

#[test]
fn environments_and_links_lead_where_the_trees_lie() {
    let bench = Bench::new();
    let before = bench.all();
    fs::hard_link(bench.at("here/v/bin/hello"), bench.base.with_extension("shared")).unwrap();
    let relocation = bench.relocate();
    check_different(&bench, &before);
    let shared = bench.base.with_extension("shared");
    assert_eq!(fs::read(&shared).unwrap(), SCRIPT.as_bytes());
    fs::remove_file(shared).unwrap();
    let hello = fs::metadata(bench.at("here/v/bin/hello")).unwrap();
    assert_eq!((hello.mode() & 0o7777, hello.nlink()), (0o755, 1));

    let document = relocation.document(&bench.roots);
    assert_eq!((document.edited, document.left, document.edits.len()), (10, 0, 10));
    let hello = document.edits.iter().find(|edit| edit.path.ends_with("bin/hello")).unwrap();
    assert_eq!(
        (hello.kind, hello.replaced[0].from.as_str(), hello.replaced[0].times),
        (EditKind::Script, "/w/demo", 1)
    );
    assert_eq!(hello.path, bench.at("here/v/bin/hello").to_str().unwrap());

    // Once more there is nothing to do, and what was written down is done.
    assert_eq!(Relocation::plan(&bench.roots).counts(), (0, 0));
    let mut again = Relocation { stage: Stage::Files, ..relocation.clone() };
    again.advance(&bench.roots, "cafe").unwrap();
    assert_eq!(again.counts(), (10, 0));
    check_different(&bench, &before);
}

#[test]
fn trees_at_their_origins_places_are_left_alone() {
    let bench = Bench::new();
    let before = bench.all();
    for roots in [
        bench.roots.iter().map(|root| Root::in_place(root.here.clone())).collect(),
        Vec::new(),
        vec![Root { origin: "/w/\u{fffd}".into(), here: bench.at("here") }],
    ] {
        let mut relocation = Relocation::plan(&roots);
        relocation.advance(&roots, "cafe").unwrap();
        assert_eq!((relocation.counts(), bench.different(&before)), ((0, 0), BTreeMap::new()));
    }
    // In a run the workspace would lie over the place where its companion is.
    let around = [bench.roots[0].clone(), Root { origin: bench.base.clone(), here: bench.at("kept/1") }];
    let planned = Relocation::plan(&around).document(&around);
    assert_eq!(planned.edited, 0);
    assert!(
        planned.left_alone.iter().all(|left| left.reason.contains("a run would not see it")),
        "{planned:?}"
    );
    assert_eq!(planned.left_alone.len(), 2);
}

#[test]
fn nothing_is_reached_through_a_link() {
    let bench = Bench::new();
    bench.write("outside/bin/hello", SCRIPT);
    bench.write("outside/pyvenv.cfg", "home = /opt/py/bin\n");
    for (name, target) in
        [("here/u/bin", "../../outside/bin"), ("here/link", "../outside"), ("here/u/pyvenv.cfg", "/x")]
    {
        bench.link(name, target);
    }
    bench.write("here/x/pyvenv.cfg", "home = /usr/bin\n");
    bench.link("here/x/bin", "../../outside/bin");
    bench.link("here/v/bin/other", "../../../outside/bin/hello");
    let before = bench.all();
    bench.relocate();
    check_different(&bench, &before);
}

#[test]
fn what_somebody_changed_meanwhile_stays() {
    let bench = Bench::new();
    let mut relocation = Relocation::plan(&bench.roots);
    bench.write("here/v/bin/hello", "mine\n");
    fs::remove_file(bench.at("here/v/bin/activate")).unwrap();
    fs::remove_file(bench.at("here/data")).unwrap();
    bench.link("here/data", "/mine");
    let before = bench.all();
    relocation.advance(&bench.roots, "cafe").unwrap();
    relocation.advance(&bench.roots, "cafe").unwrap();
    let changed = bench.different(&before);
    assert!(!changed.contains_key("here/v/bin/hello") && !changed.contains_key("here/data"), "{changed:?}");
    // The list follows from what was edited.
    assert!(!changed.contains_key(RECORD));
    let left: BTreeMap<_, _> = relocation
        .document(&bench.roots)
        .left_alone
        .into_iter()
        .map(|left| (left.path, left.reason))
        .collect();
    let of = |name: &str| left[bench.at(name).to_str().unwrap()].as_str();
    assert_eq!(of("here/v/bin/hello"), "it was changed meanwhile");
    assert_eq!(of("here/data"), "it was changed meanwhile");
    assert_eq!(of("here/v/bin/activate"), "it is not there any more");
    assert_eq!(left.len(), 3);
}

#[test]
fn an_exchange_is_undone_when_somebody_was_faster() {
    let bench = Bench::new();
    let relocation = Relocation::plan(&bench.roots);
    let number = relocation.edits.iter().position(|edit| edit.target.path == "v/bin/hello").unwrap();
    let (name, ours) =
        (bench.at("here/v/bin/hello"), bench.at(&format!("here/v/bin/.twinshare-cafe-{number}")));
    // Killed between the exchange of the names and the look at what was there.
    for (theirs, expected) in [(SCRIPT, None), ("mine\n", Some("mine\n")), ("#!/torn", Some("#!/torn"))] {
        let after = SCRIPT.replace("/w/demo/v", bench.at("here/v").to_str().unwrap());
        fs::write(&name, &after).unwrap();
        fs::write(&ours, theirs).unwrap();
        let mut again = relocation.clone();
        again.advance(&bench.roots, "cafe").unwrap();
        assert!(!ours.exists());
        assert_eq!(fs::read_to_string(&name).unwrap(), expected.unwrap_or(&after));
        assert_eq!(again.left.len(), usize::from(expected.is_some()));
    }
    // Killed while the new file was written.
    fs::write(&name, SCRIPT).unwrap();
    fs::write(&ours, "#!/to").unwrap();
    let mut again = relocation.clone();
    again.advance(&bench.roots, "cafe").unwrap();
    assert!(!ours.exists() && again.left.is_empty());
    assert_ne!(fs::read_to_string(&name).unwrap(), SCRIPT);
}

/// Names the bench of a process that is killed, in its environment.
const KILLED: &str = "TWINSHARE_TEST_KILLED_IN";

/// Not a test by itself: what [`it_goes_on_wherever_it_was_killed`] starts and kills.
#[test]
fn relocate_in_a_process_of_its_own() {
    let Some(base) = std::env::var_os(KILLED).map(PathBuf::from) else { return };
    let root = |origin: &str, name: &str| Root { origin: origin.into(), here: base.join(name) };
    let roots = [root("/w/demo", "here"), root("/opt/py", "kept/1")];
    let journal = base.with_extension("journal");
    let mut relocation: Relocation = serde_json::from_slice(&fs::read(&journal).unwrap()).unwrap();
    fs::write(base.with_extension("begun"), "").unwrap();
    while !relocation.is_done() {
        relocation.advance(&roots, "cafe").unwrap();
        fs::write(base.with_extension("new"), serde_json::to_vec(&relocation).unwrap()).unwrap();
        fs::rename(base.with_extension("new"), &journal).unwrap();
    }
}

#[test]
fn it_goes_on_wherever_it_was_killed() {
    let mut struck = 0;
    for round in 0..24_u64 {
        let bench = Bench::new();
        for number in 0..60 {
            bench.write(&format!("here/v/bin/script-{number}"), SCRIPT);
        }
        let before = bench.all();
        let beside = |name: &str| bench.base.with_extension(name);
        fs::write(beside("journal"), serde_json::to_vec(&Relocation::plan(&bench.roots)).unwrap()).unwrap();
        let run = || {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "relocate::tests::relocate_in_a_process_of_its_own"]);
            child.env(KILLED, &bench.base).stdout(std::process::Stdio::null());
            child
        };
        let mut child = run().spawn().unwrap();
        while !beside("begun").exists() {
            std::thread::sleep(Duration::from_micros(50));
        }
        // The moment is what is tested; nothing is waited for.
        std::thread::sleep(Duration::from_micros(round * 400));
        let was_under_way = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        struck += u32::from(was_under_way);
        assert!(run().status().unwrap().success());
        let mut found = bench.different(&before);
        for number in 0..60 {
            let script = found.remove(&format!("here/v/bin/script-{number}")).unwrap();
            assert_eq!(script, "#!@/here/v/bin/python\nimport sys # /w/demo\n");
        }
        found.remove(RECORD).unwrap();
        assert_eq!(found, expected());
        let done: Relocation = serde_json::from_slice(&fs::read(beside("journal")).unwrap()).unwrap();
        assert_eq!((done.is_done(), done.counts()), (true, (70, 0)));
        ["journal", "begun"].iter().for_each(|name| fs::remove_file(beside(name)).unwrap());
    }
    assert!(struck > 3, "killed {struck} times");
}

#[test]
fn a_conda_environment_is_edited_as_conda_lists_it() {
    let bench = Bench::new();
    let old = |name: &str| fs::read(bench.at(&format!("here/c/{name}"))).unwrap();
    bench.write("here/c/bin/tool", "#!/w/demo/c/bin/perl\nexec /w/demo/c/x\n");
    bench.write("here/c/lib/x.pc", "prefix=/w/demo/c\n");
    bench.write("here/c/lib/unlisted.pc", "prefix=/w/demo/c\n");
    bench.write("here/c/lib/lib.so", &format!("\x7fELF\0/w/demo/c/ssl{}rest", "\0".repeat(255)));
    bench.write("here/c/lib/tight.so", "\x7fELF\0/w/demo/c/ssl\0rest");
    let listed = |name: &str, mode: &str, placeholder: usize| {
        let digest = edit::sha256(&old(name));
        let placeholder = format!("/{}", "p".repeat(placeholder - 1));
        format!(
            "{{\"_path\": \"{name}\", \"file_mode\": \"{mode}\", \"prefix_placeholder\": \"{placeholder}\", \
             \"sha256_in_prefix\": \"{digest}\"}}"
        )
    };
    let document = || {
        let all = [
            listed("bin/tool", "text", 30),
            listed("lib/x.pc", "text", 30),
            listed("lib/lib.so", "binary", 255),
            listed("lib/tight.so", "binary", 30),
        ];
        format!("{{\"paths_data\": {{\"paths\": [{}]}}}}", all.join(", "))
    };
    bench.write("here/c/conda-meta/x-1.json", &document());
    let before = bench.all();
    let relocation = bench.relocate();
    let changed = bench.different(&before);
    assert_eq!(changed["here/c/bin/tool"], "#!@/here/c/bin/perl\nexec @/here/c/x\n");
    assert_eq!(changed["here/c/lib/x.pc"], "prefix=@/here/c\n");
    assert_eq!(old("lib/lib.so").len(), before["here/c/lib/lib.so"].len());
    let strings = changed["here/c/lib/lib.so"].split('\0').filter(|string| !string.is_empty());
    assert_eq!(strings.collect::<Vec<_>>(), ["\x7fELF", "@/here/c/ssl", "rest"]);
    assert_eq!(String::from_utf8(old("conda-meta/x-1.json")).unwrap(), document());
    assert!(!changed.contains_key("here/c/lib/unlisted.pc") && !changed.contains_key("here/c/lib/tight.so"));
    let left = relocation.document(&bench.roots).left_alone;
    assert_eq!(left.len(), 1);
    assert!(
        left[0].path.ends_with("tight.so") && left[0].reason.contains("longer than the room"),
        "{left:?}"
    );
}

#[test]
fn what_may_not_be_changed_is_listed() {
    if rustix::process::geteuid().is_root() {
        // Root may change everything.
        return;
    }
    let bench = Bench::new();
    fs::set_permissions(bench.at("here/v/bin"), fs::Permissions::from_mode(0o555)).unwrap();
    let relocation = bench.relocate();
    fs::set_permissions(bench.at("here/v/bin"), fs::Permissions::from_mode(0o755)).unwrap();
    let left = relocation.document(&bench.roots).left_alone;
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|left| left.reason.contains("ermission denied")), "{left:?}");
}
