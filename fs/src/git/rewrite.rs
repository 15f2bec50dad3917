//! The configuration that a receiver shows, made from an allow-list of what the peer's says.
//!
//! | taken over | as long as |
//! |---|---|
//! | `core.repositoryformatversion` | 0 or 1 |
//! | `core.bare`, `filemode`, `symlinks`, `ignorecase`, `logallrefupdates`, `sparsecheckout`, `sparsecheckoutcone` | a boolean |
//! | `core.autocrlf`, `core.eol` | one of their words |
//! | `extensions.objectformat`, `extensions.refstorage` | one of their words: git cannot read the repository without |
//! | `extensions.worktreeconfig`, `preciousobjects`, `relativeworktrees` | a boolean |
//! | `remote.NAME.url`, `fetch` | an address taken over ([`url`](super::url)), a plain refspec |
//! | `branch.NAME.remote`, `merge` | a remote taken over or `.`, a name under `refs/` |
//! | `submodule.NAME.url`, `active` | as above |
//!
//! `core.checkStat = minimal` and `core.trustctime = false` are added: with them git believes the index although inode
//! numbers and ctimes differ, and a first `git status` opens no file.
//!
//! Left out on purpose, beside everything that runs a program:
//! - `core.worktree`: git finds the working tree of a submodule without it, and with it a peer could point
//!   `git clean` at the receiver's own directories.
//! - `extensions.partialclone` and promisor remotes: reading a repository would then connect to a host of the peer's
//!   choice. The objects a partial clone lacks stay missing until the receiver configures a promisor.
//! - `user.*`: commits made here are not the peer's.

use std::collections::BTreeMap;

use super::syntax::{self, Header};
use super::url::without_credentials;
use crate::manifest::GIT_CONFIG_BYTES_MAX;

/// Bytes of a remote's, branch's or submodule's name at most.
const NAME_BYTES_MAX: usize = 1024;

/// Keys whose value is a boolean, with the section they stand in.
const BOOLEANS: [(&[u8], &[u8]); 11] = [
    (b"core", b"autocrlf"),
    (b"core", b"bare"),
    (b"core", b"filemode"),
    (b"core", b"ignorecase"),
    (b"core", b"logallrefupdates"),
    (b"core", b"sparsecheckout"),
    (b"core", b"sparsecheckoutcone"),
    (b"core", b"symlinks"),
    (b"extensions", b"preciousobjects"),
    (b"extensions", b"relativeworktrees"),
    (b"extensions", b"worktreeconfig"),
];

/// A section, a key in it, and the words it may have for a value.
type Words = (&'static [u8], &'static [u8], &'static [&'static [u8]]);

/// Keys whose value is one of some words.
const WORDS: [Words; 6] = [
    (b"core", b"autocrlf", &[b"input"]),
    (b"core", b"eol", &[b"crlf", b"lf", b"native"]),
    (b"core", b"logallrefupdates", &[b"always"]),
    (b"core", b"repositoryformatversion", &[b"0", b"1"]),
    (b"extensions", b"objectformat", &[b"sha1", b"sha256"]),
    (b"extensions", b"refstorage", &[b"files", b"reftable"]),
];

/// The configuration shown in place of a peer's `config`: see the tables above.
///
/// Never fails: what cannot be read is as if it were not there. The result is at most [`GIT_CONFIG_BYTES_MAX`] bytes
/// (sections beyond it are left off), is what git itself would accept, and is its own result when put in again.
pub fn shown_config(peers: &[u8]) -> Vec<u8> {
    let mut taken = Taken::default();
    syntax::read(peers, |header, key, value| taken.take(header, key, value));
    taken.write()
}

#[derive(Default)]
struct Taken {
    core: BTreeMap<Vec<u8>, Vec<u8>>,
    extensions: BTreeMap<Vec<u8>, Vec<u8>>,
    remotes: BTreeMap<Vec<u8>, Remote>,
    branches: BTreeMap<Vec<u8>, Branch>,
    submodules: BTreeMap<Vec<u8>, Submodule>,
}

#[derive(Default)]
struct Remote {
    urls: Vec<Vec<u8>>,
    fetch: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Branch {
    remote: Vec<u8>,
    merge: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Submodule {
    url: Option<Vec<u8>>,
    active: Option<&'static [u8]>,
}

impl Taken {
    fn take(&mut self, header: &Header, key: &[u8], value: Option<&[u8]>) {
        match &header.subsection {
            None => self.take_plain(&header.section, key, value),
            Some(name) if is_name(name) => self.take_named(&header.section, name, key, value),
            Some(_) => {}
        }
    }

    fn take_plain(&mut self, section: &[u8], key: &[u8], value: Option<&[u8]>) {
        let settings = match section {
            b"core" => &mut self.core,
            b"extensions" => &mut self.extensions,
            _ => return,
        };
        let words = WORDS.iter().find(|(s, k, _)| (*s, *k) == (section, key)).map_or(&[][..], |(.., w)| w);
        let word = value.filter(|value| words.contains(value));
        let truth = boolean(value).filter(|_| BOOLEANS.contains(&(section, key)));
        if let Some(value) = word.or(truth) {
            settings.insert(key.into(), value.into());
        }
    }

    fn take_named(&mut self, section: &[u8], name: &[u8], key: &[u8], value: Option<&[u8]>) {
        let text = value.unwrap_or_default();
        match (section, key) {
            (b"remote", b"url") => {
                let url = without_credentials(text);
                self.remotes.entry(name.into()).or_default().urls.extend(url);
            }
            (b"remote", b"fetch") if is_refspec(text) => {
                self.remotes.entry(name.into()).or_default().fetch.push(text.into());
            }
            (b"branch", b"remote") => self.branches.entry(name.into()).or_default().remote = text.into(),
            (b"branch", b"merge") if text.starts_with(b"refs/") && is_ref(text) => {
                self.branches.entry(name.into()).or_default().merge.push(text.into());
            }
            (b"submodule", b"url") => {
                self.submodules.entry(name.into()).or_default().url = without_credentials(text);
            }
            (b"submodule", b"active") => {
                self.submodules.entry(name.into()).or_default().active = boolean(value);
            }
            _ => {}
        }
    }

    fn write(mut self) -> Vec<u8> {
        // A remote without an address is one of the name's: `git fetch origin` would go to the directory `origin`.
        self.remotes.retain(|_, remote| !remote.urls.is_empty());
        let remotes = &self.remotes;
        self.branches.retain(|_, b| b.remote == b"." || remotes.contains_key(&b.remote));
        let mut out = Output::default();
        self.core.insert(b"checkstat".into(), b"minimal".into());
        self.core.insert(b"trustctime".into(), b"false".into());
        out.section(b"core", None, &pairs(&self.core));
        out.section(b"extensions", None, &pairs(&self.extensions));
        for (name, remote) in &self.remotes {
            let urls = remote.urls.iter().map(|url| (&b"url"[..], url.as_slice()));
            let fetch = remote.fetch.iter().map(|spec| (&b"fetch"[..], spec.as_slice()));
            out.section(b"remote", Some(name), &urls.chain(fetch).collect::<Vec<_>>());
        }
        for (name, branch) in &self.branches {
            let merge = branch.merge.iter().map(|merge| (&b"merge"[..], merge.as_slice()));
            let remote = [(&b"remote"[..], branch.remote.as_slice())];
            out.section(b"branch", Some(name), &remote.into_iter().chain(merge).collect::<Vec<_>>());
        }
        for (name, submodule) in &self.submodules {
            let url = submodule.url.iter().map(|url| (&b"url"[..], url.as_slice()));
            let active = submodule.active.iter().map(|active| (&b"active"[..], *active));
            out.section(b"submodule", Some(name), &active.chain(url).collect::<Vec<_>>());
        }
        out.text
    }
}

fn pairs(settings: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(&[u8], &[u8])> {
    settings.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect()
}

#[derive(Default)]
struct Output {
    text: Vec<u8>,
    full: bool,
}

impl Output {
    /// Adds a section, unless it is empty or does not fit any more; after the first that does not fit none does.
    fn section(&mut self, section: &[u8], name: Option<&[u8]>, settings: &[(&[u8], &[u8])]) {
        let before = self.text.len();
        self.text.push(b'[');
        self.text.extend_from_slice(section);
        if let Some(name) = name {
            self.text.extend_from_slice(b" \"");
            self.text.extend(escaped(name));
            self.text.push(b'"');
        }
        self.text.extend_from_slice(b"]\n");
        for (key, value) in settings {
            self.text.push(b'\t');
            self.text.extend_from_slice(key);
            self.text.extend_from_slice(b" = ");
            let quote = value.iter().any(|byte| matches!(byte, b' ' | b'#' | b';'));
            self.text.extend(quote.then_some(b'"'));
            self.text.extend(escaped(value));
            self.text.extend(quote.then_some(b'"'));
            self.text.push(b'\n');
        }
        self.full |= self.text.len() > GIT_CONFIG_BYTES_MAX;
        if settings.is_empty() || self.full {
            self.text.truncate(before);
        }
    }
}

fn escaped(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().flat_map(|byte| matches!(byte, b'"' | b'\\').then_some(b'\\').into_iter().chain([*byte]))
}

/// A value as git reads a boolean, if it is one.
fn boolean(value: Option<&[u8]>) -> Option<&'static [u8]> {
    let is = |words: &[&str]| {
        value.is_none_or(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes())))
    };
    match () {
        () if is(&["true", "yes", "on", "1"]) => Some(b"true"),
        () if is(&["false", "no", "off", "0", ""]) => Some(b"false"),
        () => None,
    }
}

/// No control characters, so that nothing breaks a line here or acts on a terminal later.
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| !byte.is_ascii_control())
}

/// The name of a remote, a branch or a submodule: it becomes part of paths in the repository.
fn is_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && is_plain(name)
        && !matches!(name[0], b'-' | b'/')
        && !name.windows(2).any(|pair| pair == b"..")
}

/// What may stand in a reference's name or pattern.
fn is_ref(text: &[u8]) -> bool {
    let forbidden = |byte: &u8| matches!(byte, b' ' | b'~' | b'^' | b':' | b'?' | b'[' | b'\\');
    is_plain(text) && !text.iter().any(forbidden) && !text.windows(2).any(|pair| pair == b"..")
}

fn is_refspec(text: &[u8]) -> bool {
    let bare = text.strip_prefix(b"+").or(text.strip_prefix(b"^")).unwrap_or(text);
    let mut sides = bare.split(|byte| *byte == b':');
    let ok = |side: &[u8]| is_ref(side) && !side.starts_with(b"-");
    !bare.is_empty() && sides.by_ref().take(2).all(ok) && sides.next().is_none()
}
