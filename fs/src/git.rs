//! What of a git repository a receiver takes over, and what it makes anew.
//!
//! A git configuration can run programs: aliases, `core.fsmonitor`, `core.sshCommand`, `core.hooksPath`, filters,
//! pagers, credential helpers, includes. So a peer's configuration is never shown: [`shown_config`] regenerates it
//! from an allow-list. Hooks run by themselves too, so they lose their execute bits.
//!
//! # Which entries are meant
//! The rules look at names alone, and follow how git itself finds a repository (`is_git_directory` in git's
//! `setup.c`): a directory is a **repository** when it is called `.git`, or when it holds the names `objects` and
//! `refs`, of whatever kind. That covers bare repositories, `.git/modules/…` of submodules, and directories that a
//! `commondir` file or a symbolic link called `.git` leads to, since git asks for both names there too.
//!
//! - A **configuration** is `config` in a repository, and `config.worktree` anywhere (git reads it from directories
//!   that need not hold `objects` and `refs`).
//! - A **hook** is anything but a directory in the directory `hooks` of a repository.
//! - A symbolic link in either place, or in the place of `hooks` itself, would lead git to bytes of the peer's under
//!   another name: it is shown as a link to [`WITHHELD_TARGET`], which cannot exist.
//! - `.git`, `config`, `config.worktree` and `hooks` are recognised in any case of their letters.
//! - `refs/heads/config` is a branch, and `.git` as a file (`gitdir: …` of worktrees and submodules) says only where
//!   a repository lies: both travel as they are.
//! - Neither a configuration nor a hook may be a further name of another file ([`stands_alone`]): what is shown
//!   under one name would else be the content or the mode of the other.
//!
//! The origin applies the rules while it builds a manifest, and replaces the configuration's bytes already there, so
//! that its secrets never leave it. The receiver applies them again ([`shown`]), whatever the manifest says.
//! `shown_config` of its own output is that output.
//!
//! # Where this ends
//! A person who runs `git rebase --continue` in a rebase that the peer had begun runs the peer's `exec` lines, and
//! one who makes a repository around a foreign `config` (`git init --bare` in its directory) adopts it.

use crate::manifest::{Entry, EntryIndex, Flags, Kind, Manifest, NotYet};

mod rewrite;
mod syntax;
mod url;

pub use rewrite::shown_config;

/// What a symbolic link in the place of a configuration or a hook is shown to lead to: no file can lie under
/// `/dev/null`, and git takes ENOTDIR for "there is none".
pub const WITHHELD_TARGET: &[u8] = b"/dev/null/withheld-by-twinshare";

/// What git would take an entry for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing that could act.
    Ordinary,
    /// A configuration.
    Config,
    /// A hook, or the link that stands for the directory of hooks.
    Hook,
}

/// A directory as the rules see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    repository: bool,
    hooks: bool,
}

impl Surroundings {
    /// The directory called `name` in the directory `parent`; `has` tells whether it holds a name. A root has no
    /// name and no parent (`Surroundings::default()`).
    pub fn new<E>(name: &[u8], parent: Self, has: impl Fn(&[u8]) -> Result<bool, E>) -> Result<Self, E> {
        let repository = name.eq_ignore_ascii_case(b".git") || (has(b"objects")? && has(b"refs")?);
        Ok(Self { repository, hooks: parent.repository && name.eq_ignore_ascii_case(b"hooks") })
    }

    /// What an entry of the directory is to git.
    pub fn role(self, name: &[u8], kind: Kind) -> Role {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match kind {
            Kind::Directory => Role::Ordinary,
            _ if is(b"config.worktree") || (self.repository && is(b"config")) => Role::Config,
            _ if self.hooks => Role::Hook,
            Kind::Symlink if self.repository && is(b"hooks") => Role::Hook,
            Kind::File | Kind::Symlink => Role::Ordinary,
        }
    }
}

/// True when a file called `name` in a directory called `directory` must not share its inode with another entry,
/// because it may be a configuration or a hook.
pub fn stands_alone(directory: &[u8], name: &[u8]) -> bool {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    is(b"config") || is(b"config.worktree") || directory.eq_ignore_ascii_case(b"hooks")
}

/// How a receiver shows an entry that git would act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As the manifest has it.
    AsItIs,
    /// A file with this content and its length, whatever the manifest says about either.
    Config(Vec<u8>),
    /// With its execute bits cleared.
    NotExecutable,
    /// A symbolic link with the target [`WITHHELD_TARGET`].
    Withheld,
}

impl Shown {
    /// The permission bits that are shown of an entry that has `mode`.
    pub fn mode(&self, mode: u16) -> u16 {
        match self {
            Self::NotExecutable => mode & !0o111,
            Self::AsItIs | Self::Config(_) | Self::Withheld => mode,
        }
    }
}

/// How a receiver shows `entry`, whatever its sender claims about it.
///
/// Cheap for all but configurations: two or three lookups for a name that matters, none for another. [`NotYet`] when
/// the listing of its directory has not arrived to the end.
pub fn shown(manifest: &Manifest, entry: &Entry<'_>) -> Result<Shown, NotYet> {
    let said = entry.flags().contains(Flags::GIT_HOOK);
    Ok(match (entry.kind(), role(manifest, entry)?) {
        (Kind::Directory, _) => Shown::AsItIs,
        (Kind::Symlink, Role::Config | Role::Hook) => Shown::Withheld,
        (Kind::Symlink, Role::Ordinary) => Shown::AsItIs,
        (Kind::File, Role::Config) => Shown::Config(shown_config(&config_text(entry))),
        (Kind::File, Role::Hook) => Shown::NotExecutable,
        (Kind::File, Role::Ordinary) if entry.has_extra() && entry.extra().git_config.is_some() => {
            Shown::Config(shown_config(&config_text(entry)))
        }
        (Kind::File, Role::Ordinary) if said => Shown::NotExecutable,
        (Kind::File, Role::Ordinary) => Shown::AsItIs,
    })
}

fn config_text(entry: &Entry<'_>) -> Vec<u8> {
    entry.extra().git_config.unwrap_or_default()
}

/// What git would take `entry` for, from the names around it alone.
pub fn role(manifest: &Manifest, entry: &Entry<'_>) -> Result<Role, NotYet> {
    role_as(manifest, entry, entry.kind())
}

/// What git would take `entry` for if it were of another kind.
pub fn role_as(manifest: &Manifest, entry: &Entry<'_>, kind: Kind) -> Result<Role, NotYet> {
    let is = |other: &[u8]| entry.name().eq_ignore_ascii_case(other);
    let parent = entry.parent();
    let in_hooks = || {
        let directory = manifest.entry(parent);
        directory.is_some_and(|directory| directory.name().eq_ignore_ascii_case(b"hooks"))
    };
    if kind == Kind::Directory || parent == entry.index() {
        return Ok(Role::Ordinary);
    }
    // Most entries end here, without a lookup.
    if !(is(b"config") || is(b"config.worktree") || is(b"hooks") || in_hooks()) {
        return Ok(Role::Ordinary);
    }
    Ok(surroundings(manifest, parent)?.role(entry.name(), kind))
}

fn surroundings(manifest: &Manifest, directory: EntryIndex) -> Result<Surroundings, NotYet> {
    let Some(entry) = manifest.entry(directory) else {
        return Err(NotYet);
    };
    let around = |index: EntryIndex, name: &[u8], parent| {
        Surroundings::new(name, parent, |name| Ok(manifest.lookup(index, name)?.is_some()))
    };
    let parent = match entry.parent() {
        parent if parent == directory => Surroundings::default(),
        parent => {
            let name = manifest.entry(parent).map_or(&b""[..], |entry| entry.name());
            around(parent, name, Surroundings::default())?
        }
    };
    around(directory, entry.name(), parent)
}

#[cfg(test)]
mod tests;
