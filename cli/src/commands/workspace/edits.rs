//! What was edited in a settled clone, as people read it.

use std::path::Path;

use twinshare_daemon::api::wire::{EditKind, Replica, ReplicaEdit, ReplicaRelocation};
use twinshare_daemon::client::Client;

use crate::error::Result;
use crate::output::line;
use crate::text::{count, shown};

/// Edits shown where they are not what was asked for.
pub(super) const SOME: usize = 20;

/// The same clone with all that was edited in it, which lists do not have.
pub(super) async fn with_edits(client: &Client, replica: Replica) -> Result<Replica> {
    match relocation(&replica) {
        Some(_) => Ok(client.clone_status(&replica.id).await?),
        None => Ok(replica),
    }
}

/// Prints what was edited, and what was not although it names a path of the origin: `most` of each at most.
pub(super) fn print(replica: &Replica, most: usize) -> Result<()> {
    let Some(relocation) = relocation(replica) else { return Ok(()) };
    lines(relocation, Path::new(&replica.directory), most).iter().try_for_each(line)
}

/// How much was edited, in a few words.
pub(super) fn in_words(relocation: &ReplicaRelocation) -> String {
    match (relocation.edited, relocation.left) {
        (0, 0) => String::new(),
        (edited, 0) => format!("; {edited} edited for its path here"),
        (edited, left) => format!("; {edited} edited for its path here, {left} left"),
    }
}

fn relocation(replica: &Replica) -> Option<&ReplicaRelocation> {
    replica.receipt.as_ref()?.relocation.as_ref()
}

fn lines(relocation: &ReplicaRelocation, directory: &Path, most: usize) -> Vec<String> {
    let name = |path: &str| {
        shown(&Path::new(path).strip_prefix(directory).unwrap_or(Path::new(path)).to_string_lossy())
    };
    let edits = relocation.edits.iter().map(|edit| format!("{}: {}", name(&edit.path), replaced(edit)));
    let left = relocation.left_alone.iter();
    let left = left.map(|left| format!("{}: {}", name(&left.path), shown(&left.reason)));
    let edited = format!("{}, so that environments work here:", count(relocation.edited, "file or link"));
    let edited = edited.replace("file or links", "files and links");
    let kept = format!("{} that a path of the origin is named in:", relocation.left);
    let mut all = listed("edited", &edited, relocation.edited, edits.take(most));
    all.extend(listed("not edited", &kept, relocation.left, left.take(most)));
    all
}

/// A heading and what stands under it; nothing for none.
fn listed(head: &str, text: &str, total: u64, some: impl Iterator<Item = String>) -> Vec<String> {
    if total == 0 {
        return Vec::new();
    }
    let mut all = vec![format!("{head:<15}{text}")];
    all.extend(some.map(|text| format!("{:<15}{text}", "")));
    let more = total - (all.len() as u64 - 1).min(total);
    if more > 0 {
        all.push(format!("{:<15}and {more} more, which `twinshare workspace show` lists", ""));
    }
    all
}

fn replaced(edit: &ReplicaEdit) -> String {
    if edit.replaced.is_empty() {
        return "digests of edited files".to_owned();
    }
    let paths = edit.replaced.iter().map(|path| {
        let times = if path.times == 1 { String::new() } else { format!(" ({} times)", path.times) };
        format!("{} -> {}{times}", shown(&path.from), shown(&path.to))
    });
    let link = if edit.kind == EditKind::Link { "leads from " } else { "" };
    format!("{link}{}", paths.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use twinshare_daemon::api::wire::{ReplacedPath, ReplicaNotEdited};

    use super::*;

    #[test]
    fn every_edit_is_a_line() {
        let edit = |path: &str, kind, times| ReplicaEdit {
            path: path.into(),
            kind,
            replaced: match times {
                0 => Vec::new(),
                times => vec![ReplacedPath { from: "/w\u{1b}".into(), to: "/c".into(), times }],
            },
        };
        let relocation = ReplicaRelocation {
            edited: 3,
            left: 2,
            edits: vec![
                edit("/c/v/bin/pip", EditKind::Script, 1),
                edit("/kept/1/x.pc", EditKind::CondaText, 2),
                edit("/c/RECORD", EditKind::Record, 0),
            ],
            left_alone: vec![ReplicaNotEdited { path: "/c/a".into(), reason: "no".into() }],
        };
        let blank = " ".repeat(15);
        let expected = [
            "edited         3 files and links, so that environments work here:".to_owned(),
            format!("{blank}v/bin/pip: /w\\u{{1b}} -> /c"),
            format!("{blank}/kept/1/x.pc: /w\\u{{1b}} -> /c (2 times)"),
            format!("{blank}RECORD: digests of edited files"),
            "not edited     2 that a path of the origin is named in:".to_owned(),
            format!("{blank}a: no"),
            format!("{blank}and 1 more, which `twinshare workspace show` lists"),
        ];
        assert_eq!(lines(&relocation, Path::new("/c"), 3), expected);
        assert_eq!(lines(&relocation, Path::new("/c"), 1).len(), 6);
        assert_eq!(lines(&ReplicaRelocation::default(), Path::new("/c"), 3), [""; 0]);
        assert_eq!(in_words(&relocation), "; 3 edited for its path here, 2 left");
        assert_eq!(in_words(&ReplicaRelocation::default()), "");
    }
}
