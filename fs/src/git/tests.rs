//! What a receiver sees of a repository, judged by git itself.

use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::manifest::{Builder, Extra, GIT_CONFIG_BYTES_MAX, LeftOutList, Meta, Mtime, NewEntry};

/// Runs git in `directory` without anything of the machine's own configuration.
fn try_git(directory: &Path, arguments: &[&str]) -> Output {
    Command::new("git")
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs([("PATH", std::env::var("PATH").unwrap()), ("HOME", "/nonexistent".into())])
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b"), ("GIT_ALLOW_PROTOCOL", "file")])
        .output()
        .expect("git is installed")
}

#[track_caller]
fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = try_git(directory, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A setting's full name and its value.
type Setting = (Vec<u8>, Option<Vec<u8>>);

/// What `git config --list` makes of a file; `None` where it refuses it.
fn git_list(text: &[u8]) -> Option<Vec<Setting>> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("c"), text).unwrap();
    let output = try_git(directory.path(), &["config", "--no-includes", "--null", "--list", "--file", "c"]);
    let setting = |item: &[u8]| match item.iter().position(|byte| *byte == b'\n') {
        Some(at) => (item[..at].to_vec(), Some(item[at + 1..].to_vec())),
        None => (item.to_vec(), None),
    };
    let items =
        output.stdout.strip_suffix(b"\0").map(|all| all.split(|byte| *byte == 0).map(setting).collect());
    output.status.success().then(|| items.unwrap_or_default())
}

fn own_list(text: &[u8]) -> Vec<Setting> {
    let mut found = Vec::new();
    syntax::read(text, |header, key, value| {
        let section = header
            .subsection
            .as_ref()
            .map_or(header.section.clone(), |subsection| [&header.section, &b"."[..], subsection].concat());
        found.push(([&section, &b"."[..], key].concat(), value.map(<[u8]>::to_vec)));
    });
    found
}

/// Text that is nearly a configuration.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(vec![
        "[core]\n",
        "[a \"B.c\"]",
        "[x.Y]\n",
        "[remote \"o\\\"\\\\\"]\n",
        "key = value\n",
        "K=\"q\\\"x\" y\n",
        "u = https://u:p@h/x",
        "fetch = +refs/heads/*:refs/remotes/o/*\n",
        "b\n",
        "c=\\\n d\n",
        " ",
        "\t",
        "\n",
        "\r\n",
        "#c",
        ";",
        "\"",
        "\\",
        "\\n",
        "=",
        "\u{e9}",
        "1",
        "-",
        "[",
        "]",
        ".",
        "bare = yes\n",
        "url = x::y\n",
    ]);
    prop::collection::vec(fragment, 0..14).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_git_accepts_is_read_as_git_reads_it(text in text()) {
        // Git takes settings before any section too; they mean nothing to it.
        let text = [&b"[a]\n"[..], &text].concat();
        if let Some(expected) = git_list(&text) {
            prop_assert_eq!(own_list(&text), expected);
        }
    }

    #[test]
    fn what_is_shown_is_a_configuration_and_shown_as_itself(text in text()) {
        let shown = shown_config(&text);
        prop_assert_eq!(git_list(&shown).expect("git accepts it"), own_list(&shown));
        prop_assert!(shown_config(&shown) == shown);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_shown_as_something_bounded(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let shown = shown_config(&bytes);
        prop_assert!(shown.len() <= GIT_CONFIG_BYTES_MAX && shown_config(&shown) == shown);
    }
}

const EMPTY: &str = "[core]\n\tcheckstat = minimal\n\ttrustctime = false\n";

#[track_caller]
fn check(peers: &str, expected: &str) {
    assert_eq!(String::from_utf8(shown_config(peers.as_bytes())).unwrap(), [EMPTY, expected].concat());
}

#[test]
fn nothing_that_runs_a_program_is_shown() {
    check("", "");
    check("not a configuration", "");
    for hostile in [
        "[alias]\n st = !id",
        "[include]\n path = x",
        "[includeIf \"gitdir:/\"]\n path = x",
        "[core]\n fsmonitor = id\n sshCommand = id\n hooksPath = x\n pager = id\n editor = id\n askPass = id\n gitProxy = id",
        "[core]\n worktree = ../../../..\n attributesFile = x\n excludesFile = /etc\n",
        "[core]\n bare = *\n autocrlf = *\n repositoryformatversion = 99",
        "[filter \"x\"]\n clean = id\n process = id",
        "[diff]\n external = id\n[diff \"x\"]\n textconv = id\n command = id",
        "[merge \"x\"]\n driver = id\n[mergetool \"x\"]\n cmd = id",
        "[credential]\n helper = !id\n[credential \"https://x\"]\n helper = id",
        "[url \"ext::sh -c id\"]\n insteadOf = https://\n pushInsteadOf = x",
        "[remote \"o\"]\n url = ext::sh -c id\n uploadpack = id\n receivepack = id\n vcs = id\n proxy = x\n fetch = x",
        "[remote \"../../x\"]\n url = https://h/x",
        "[remote \"o\"]\n promisor = true\n partialclonefilter = blob:none\n[extensions]\n partialclone = o",
        "[branch \"m\"]\n remote = ext::sh -c id\n merge = refs/heads/m",
        "[branch \"m\"]\n remote = /tmp/x\n merge = refs/heads/m",
        "[submodule \"s\"]\n update = !id\n[submodule \"../s\"]\n url = https://h/x",
        "[gpg]\n program = id\n[gpg \"ssh\"]\n program = id\n[http]\n extraHeader = secret\n[user]\n name = Peer",
        "[protocol \"ext\"]\n allow = always\n[pager]\n log = id\n[sequence]\n editor = id\n[trailer \"x\"]\n cmd = id",
    ] {
        check(hostile, "");
    }
}

#[test]
fn what_a_repository_needs_is_shown() {
    check(
        "[extensions]\n objectFormat = sha256\n refStorage = reftable\n worktreeConfig\n\
         [remote \"origin\"]\n url = https://me:token@h/x ; c\n fetch = +refs/heads/*:refs/remotes/origin/*\n\
         [remote \"local\"]\n url = /srv/x\n\
         [branch \"a b\"]\n remote = origin\n merge = refs/heads/a\n[branch \"l\"]\n remote = local\n[branch \"d\"]\n remote = .\n\
         [submodule \"x y\"]\n active = on\n url = git@h:x y",
        "[extensions]\n\tobjectformat = sha256\n\trefstorage = reftable\n\tworktreeconfig = true\n\
         [remote \"origin\"]\n\turl = https://h/x\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
         [branch \"a b\"]\n\tremote = origin\n\tmerge = refs/heads/a\n[branch \"d\"]\n\tremote = .\n\
         [submodule \"x y\"]\n\tactive = true\n\turl = \"git@h:x y\"\n",
    );
    let peers =
        "[core]\nrepositoryformatversion = 0\nfilemode = no\nbare = false\nautocrlf = input\neol = lf\n";
    let shown = String::from_utf8(shown_config(peers.as_bytes())).unwrap();
    let expected = "[core]\n\tautocrlf = input\n\tbare = false\n\tcheckstat = minimal\n\teol = lf\n\
                    \tfilemode = false\n\trepositoryformatversion = 0\n\ttrustctime = false\n";
    assert_eq!(shown, expected);
}

#[test]
fn many_sections_are_cut_at_the_bound() {
    let peers: String = (0..9000).map(|i| format!("[remote \"r{i}\"]\nurl=h:{i}\n")).collect();
    let shown = shown_config(peers.as_bytes());
    assert!(shown.len() > GIT_CONFIG_BYTES_MAX - 100 && shown.len() <= GIT_CONFIG_BYTES_MAX);
    assert_eq!(shown_config(&shown), shown);
}

/// A tree in one line an entry: kind, path, and what it is expected to be.
#[track_caller]
fn check_roles(tree: &[(Kind, &str, Role)]) {
    let directory = tempfile::tempdir().unwrap();
    let entry = |name: &str, kind| NewEntry {
        name: name.as_bytes().try_into().unwrap(),
        kind,
        mode: 0o755,
        size: 0,
        mtime: Mtime::default(),
        link: None,
        flags: Flags::default(),
        extra: Extra {
            target: if kind == Kind::Symlink { b"x".to_vec() } else { vec![] },
            ..Extra::default()
        },
    };
    let meta = Meta { roots: vec![b"/w".to_vec()] };
    let mut builder =
        Builder::new(&directory.path().join("m"), &meta, vec![entry("w", Kind::Directory)]).unwrap();
    let mut paths = vec![String::new()];
    while let Some(parent) = builder.next_directory().unwrap() {
        let parent = paths[parent.0 as usize].clone();
        let mut children: Vec<_> = tree
            .iter()
            .filter_map(|(kind, path, _)| {
                let name = path.strip_prefix(&parent)?;
                (!name.contains('/')).then_some((name, *kind))
            })
            .collect();
        children.sort_by_key(|(name, _)| *name);
        builder.list(children.iter().map(|(name, kind)| entry(name, *kind)).collect()).unwrap();
        paths.extend(children.iter().map(|(name, _)| format!("{parent}{name}/")));
    }
    let manifest = builder.finish(&LeftOutList::default(), Digest([0; 32])).unwrap();
    for (_, path, expected) in tree {
        let at = paths.iter().position(|p| p.trim_end_matches('/') == *path).unwrap();
        let entry = manifest.entry(EntryIndex(at as u32)).unwrap();
        assert_eq!(role(&manifest, &entry), Ok(*expected), "{path}");
        let expected = match (expected, entry.kind()) {
            (Role::Ordinary, _) => Shown::AsItIs,
            (_, Kind::Symlink) => Shown::Withheld,
            (Role::Config, _) => Shown::Config(EMPTY.into()),
            (Role::Hook, _) => Shown::NotExecutable,
        };
        assert_eq!(shown(&manifest, &entry), Ok(expected), "{path}");
    }
}

#[test]
fn configurations_and_hooks_are_found_by_their_surroundings() {
    use Kind::{Directory as D, File as F, Symlink as L};
    use Role::{Config, Hook, Ordinary};
    check_roles(&[
        (F, "config", Ordinary),
        (D, "hooks", Ordinary),
        (F, "hooks/pre-commit", Ordinary),
        (F, "config.worktree", Config),
        (D, "a", Ordinary),
        (D, "a/.git", Ordinary),
        (F, "a/.git/config", Config),
        (F, "a/.git/HEAD", Ordinary),
        (D, "a/.git/hooks", Ordinary),
        (F, "a/.git/hooks/pre-commit", Hook),
        (L, "a/.git/hooks/post-merge", Hook),
        (D, "a/.git/hooks/lib", Ordinary),
        (F, "a/.git/hooks/lib/x", Ordinary),
        (D, "a/.git/objects", Ordinary),
        (D, "a/.git/refs", Ordinary),
        (D, "a/.git/refs/heads", Ordinary),
        (F, "a/.git/refs/heads/config", Ordinary),
        (D, "a/.git/modules", Ordinary),
        (D, "a/.git/modules/s", Ordinary),
        (F, "a/.git/modules/s/config", Config),
        (D, "a/.git/modules/s/hooks", Ordinary),
        (F, "a/.git/modules/s/hooks/x", Hook),
        (D, "a/.git/modules/s/objects", Ordinary),
        (D, "a/.git/modules/s/refs", Ordinary),
        (D, "a/.git/worktrees", Ordinary),
        (D, "a/.git/worktrees/w", Ordinary),
        (F, "a/.git/worktrees/w/config.worktree", Config),
        (F, "a/.git/worktrees/w/commondir", Ordinary),
        (D, "b", Ordinary),
        (L, "b/Config", Config),
        (L, "b/HOOKS", Hook),
        (L, "b/objects", Ordinary),
        (F, "b/refs", Ordinary),
        (D, "c", Ordinary),
        (F, "c/.git", Ordinary),
        (D, "d", Ordinary),
        (D, "d/.GIT", Ordinary),
        (F, "d/.GIT/CONFIG", Config),
        (D, "e", Ordinary),
        (F, "e/config", Ordinary),
        (D, "e/objects", Ordinary),
    ]);
}

/// A repository with a submodule, a linked working tree and hooks, whose configurations are all replaced by what is
/// shown of them.
#[test]
fn git_works_in_what_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    for name in ["sub", "w"] {
        std::fs::create_dir(at(name)).unwrap();
        git(&at(name), &["init", "-q", "-b", "main"]);
        std::fs::write(at(name).join("f"), name).unwrap();
        git(&at(name), &["add", "f"]);
        git(&at(name), &["commit", "-qm", "1"]);
    }
    git(&at("w"), &["submodule", "--quiet", "add", at("sub").to_str().unwrap(), "lib/s"]);
    git(&at("w"), &["commit", "-qm", "2"]);
    git(&at("w"), &["worktree", "add", "-q", "../linked"]);
    for config in ["w/.git/config", "w/.git/modules/lib/s/config"] {
        let shown = shown_config(&std::fs::read(at(config)).unwrap());
        std::fs::write(at(config), shown).unwrap();
    }
    std::os::unix::fs::symlink(std::str::from_utf8(WITHHELD_TARGET).unwrap(), at("w/.git/hooks/pre-commit"))
        .unwrap();
    for working in ["w", "w/lib/s", "linked"] {
        assert_eq!(git(&at(working), &["status", "--porcelain"]), "", "{working}");
        let top = git(&at(working), &["rev-parse", "--show-toplevel"]);
        assert_eq!(Path::new(top.trim()), at(working).canonicalize().unwrap());
    }
    assert!(git(&at("w"), &["submodule", "status"]).starts_with(' '));
    std::fs::write(at("w/f"), "changed").unwrap();
    git(&at("w"), &["commit", "-qam", "3"]);
    // A configuration that is a link to nowhere is one that is not there.
    std::fs::remove_file(at("w/.git/config")).unwrap();
    std::os::unix::fs::symlink(std::str::from_utf8(WITHHELD_TARGET).unwrap(), at("w/.git/config")).unwrap();
    assert_eq!(git(&at("w"), &["log", "--format=%s"]), "3\n2\n1\n");
}
