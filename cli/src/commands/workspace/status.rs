//! `twinshare workspace status`

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use twinshare_daemon::api::wire::{
    Availability, Program, Reading, Replica, ReplicaChanged, ReplicaChangedFiles, ReplicaFollowing,
    ReplicaProgress, ReplicaReceipt, ReplicaSettling, ReplicaState, SettlingStage,
};

use super::edits::{self, with_edits};
use super::list::{full_name, here_of_all, kind, state};
use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::{Format, line, note};
use crate::replicas::{Found, clone_or_mount};
use crate::text::{bytes, count, date, shown, span};

/// How a clone or mount does.
///
/// How much of it is here, how fast the rest comes, who waits for which file now, and who keeps a complete clone from
/// becoming an ordinary directory.
/// Where a clone and a mount have the name, the clone is shown.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace status demo
  twinshare workspace status ~/twinshare/demo --json | jq -r .state")]
pub(crate) struct Status {
    /// `[PEER/]NAME` or directory of a clone or mount
    #[arg(value_name = "NAME|DIR")]
    name: String,
    #[command(flatten)]
    format: Format,
}

impl Status {
    pub(crate) fn run(self) -> Result {
        let (replica, mounts) = node::wait(async {
            let client = node::client()?;
            let (found, mounts) = clone_or_mount(&client, &self.name).await?;
            match found {
                Found::Replica(replica) => Ok((with_edits(&client, *replica).await?, mounts)),
                Found::Workspace(workspace) => {
                    let name = shown(&workspace.name);
                    let error = Error::new(Kind::Usage, format!("{name} is a workspace of this machine"));
                    Err(error.hint(format!("`twinshare workspace show {name}` shows it")))
                }
            }
        })?;
        self.format.print(&replica, people)?;
        mounts.iter().try_for_each(|mount| note(format!("also a mount: {}", shown(mount))))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn people(replica: &Replica) -> Result<()> {
    line(format!("{:<15}{}", kind(replica.kind), shown(&full_name(replica))))?;
    line(format!("directory      {}", shown(&replica.directory)))?;
    line(format!("state          {}", in_words(replica)))?;
    if let Some(following) = &replica.following {
        line(format!("shows          {}", shows(following)))?;
    }
    replica.changed.iter().flat_map(changed).try_for_each(line)?;
    let Some(progress) = &replica.progress else { return Ok(()) };
    line(format!("here           {}", here(replica, progress)))?;
    let peer = match progress.availability {
        Availability::Reachable => "answers",
        Availability::Gone => "does not answer; what is here stays readable",
    };
    line(format!("peer           {peer}"))?;
    replica.reading.iter().try_for_each(|read| line(reading(read, &replica.directory)))?;
    match &replica.left_out {
        Some(left_out) => line(format!(
            "left out       {} of the peer's files and directories; `twinshare workspace show` says which",
            left_out.total
        )),
        None => Ok(()),
    }
}

/// Which moment of its workspace a mount shows.
fn shows(following: &ReplicaFollowing) -> String {
    let since = date(following.since);
    match &following.paused {
        None => format!("the workspace as it is; last changed here {since}"),
        Some(why) => format!("the workspace as it was {since}, and no newer one for now: {}", shown(why)),
    }
}

/// Files that changed at the peer, a line for each thing that became of some.
fn changed(changed: &ReplicaChanged) -> Vec<String> {
    let ReplicaChanged { waiting, taken_anew, removed, conflicts, unsettled, kept } = changed;
    let rows = [
        ("conflict", conflicts, "changed both here and at the peer; `twinshare workspace resolve` decides"),
        ("unsettled", unsettled, "changed at the peer, and no version of it can be had now"),
        ("waiting", waiting, "changed at the peer; the new version is on its way"),
        ("taken anew", taken_anew, "changed at the peer; the new version is here"),
        ("removed", removed, "gone at the peer, and here"),
        ("kept", kept, "changed at the peer, and kept as it is here"),
    ];
    let mut lines = Vec::new();
    for (head, list, what) in rows {
        let ReplicaChangedFiles { total, first } = list;
        if *total == 0 {
            continue;
        }
        lines.push(format!("{head:<15}{}: {what}", count(*total, "file")));
        for file in first {
            let reason =
                file.reason.as_ref().map(|reason| format!(" ({})", shown(reason))).unwrap_or_default();
            lines.push(format!("{:<15}  {}{reason}", "", shown(&file.path)));
        }
        if *total > first.len() as u64 {
            lines.push(format!("{:<15}  and {} more", "", *total - first.len() as u64));
        }
    }
    lines
}

/// A read that waits: `data/model.bin (python3, pid 4711), waiting 1.2 s`.
fn reading(reading: &Reading, directory: &str) -> String {
    let program = match &reading.program {
        Some(Program { pid, name }) => format!("{}, pid {pid}", shown(name)),
        None => "who cannot be seen from here".to_owned(),
    };
    let (path, waits) = (below(directory, &reading.path), span(Duration::from_millis(reading.waits_ms)));
    format!("reading now    {} ({program}), waiting {waits}", shown(&path))
}

/// A path as it is found below the workspace's directory, if it lies there.
fn below(directory: &str, path: &str) -> String {
    let below = Path::new(path).strip_prefix(directory).ok().and_then(Path::to_str);
    below.unwrap_or(path).to_owned()
}

/// Its state, with what it waits for.
pub(super) fn in_words(replica: &Replica) -> String {
    let word = state(replica.state);
    let detail = replica.detail.as_ref().map(|detail| format!(": {}", shown(detail))).unwrap_or_default();
    match (replica.state, &replica.settling, &replica.receipt) {
        (ReplicaState::Mounted | ReplicaState::Hydrating, Some(settling), _) => {
            format!("{word}, {}", on_the_way(settling))
        }
        (ReplicaState::Settling, ..) => "complete, and an ordinary directory in a moment".to_owned(),
        (ReplicaState::Settled, _, Some(receipt)) => format!("{word}: {}", settled(receipt)),
        _ => format!("{word}{detail}"),
    }
}

fn settled(receipt: &ReplicaReceipt) -> String {
    let ReplicaReceipt { settled_at, files, bytes: size, relocation, .. } = receipt;
    format!(
        "an ordinary directory since {}, with {} ({}) of its origin's{}",
        date(*settled_at),
        count(*files, "file"),
        bytes(*size),
        relocation.as_ref().map(edits::in_words).unwrap_or_default()
    )
}

fn on_the_way(settling: &ReplicaSettling) -> String {
    let detail = settling.detail.as_ref().map(|detail| format!("; {}", shown(detail))).unwrap_or_default();
    let users: Vec<_> = settling.users.iter().map(|user| shown(user)).collect();
    match settling.stage {
        SettlingStage::Hydrating => format!("the rest is being fetched{detail}"),
        SettlingStage::Leaving => "complete, and being unmounted".to_owned(),
        SettlingStage::Complete if !users.is_empty() => format!("complete, in use by {}", users.join(", ")),
        SettlingStage::Complete if settling.by_itself => format!("complete{detail}"),
        SettlingStage::Complete => {
            format!("complete; it stays so until `twinshare workspace settle`{detail}")
        }
    }
}

fn here(replica: &Replica, progress: &ReplicaProgress) -> String {
    let files = match (progress.files_resident, progress.files_total) {
        (Some(here), Some(all)) => format!(", {here} of {all} files"),
        _ => String::new(),
    };
    let rate = progress.bytes_per_s.map(|rate| format!(", {}/s", bytes(rate))).unwrap_or_default();
    let left = progress.left_s.map(|left| format!(", {} left", span(Duration::from_secs(left))));
    format!("{}{files}{rate}{}", here_of_all(replica), left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use twinshare_daemon::api::wire::ReplicaChangedFile;

    use super::*;

    #[test]
    fn who_waits_is_named_with_the_file() {
        let read = |path: &str, program| Reading { path: path.to_owned(), program, waits_ms: 1_200 };
        let python = Program { pid: 4711, name: "python3".to_owned() };
        let said = reading(&read("/m/demo/data/model.bin", Some(python)), "/m/demo");
        assert_eq!(said, "reading now    data/model.bin (python3, pid 4711), waiting 1.2 s");
        let said = reading(&read("/kept/1/bin\u{1b}", None), "/m/demo");
        assert_eq!(said, "reading now    /kept/1/bin\\u{1b} (who cannot be seen from here), waiting 1.2 s");
    }

    #[test]
    fn what_became_of_changed_files_is_said() {
        let file = |path: &str, reason: Option<&str>| ReplicaChangedFile {
            path: path.into(),
            reason: reason.map(str::to_owned),
            at: None,
        };
        let list = |total, first: Vec<ReplicaChangedFile>| ReplicaChangedFiles { total, first };
        let told = ReplicaChanged {
            conflicts: list(1, vec![file("a\u{1b}", None)]),
            unsettled: list(3, vec![file("b", Some("it keeps changing"))]),
            ..ReplicaChanged::default()
        };
        assert_eq!(
            changed(&told),
            [
                "conflict       1 file: changed both here and at the peer; `twinshare workspace resolve` decides",
                "                 a\\u{1b}",
                "unsettled      3 files: changed at the peer, and no version of it can be had now",
                "                 b (it keeps changing)",
                "                 and 2 more",
            ]
        );
        assert_eq!(changed(&ReplicaChanged::default()), [""; 0]);
    }

    #[test]
    fn which_moment_is_shown_is_said() {
        let following = |paused: Option<&str>| ReplicaFollowing {
            snapshot: "ab".repeat(32),
            since: twinshare_daemon::api::wire::UnixTime(0),
            paused: paused.map(str::to_owned),
        };
        let since = date(twinshare_daemon::api::wire::UnixTime(0));
        assert_eq!(shows(&following(None)), format!("the workspace as it is; last changed here {since}"));
        let paused = shows(&following(Some("the peer is gone\u{1b}")));
        assert!(paused.ends_with("and no newer one for now: the peer is gone\\u{1b}"), "{paused}");
    }

    #[test]
    fn what_it_waits_for_is_said() {
        let settling = |stage, users: &[&str], by_itself| ReplicaSettling {
            stage,
            users: users.iter().map(|user| (*user).to_owned()).collect(),
            detail: None,
            by_itself,
        };
        let check = |settling, expected: &str| assert_eq!(on_the_way(&settling), expected);
        check(settling(SettlingStage::Hydrating, &[], true), "the rest is being fetched");
        let bash = ["bash (pid 4711) in src/"];
        check(settling(SettlingStage::Complete, &bash, true), "complete, in use by bash (pid 4711) in src/");
        check(settling(SettlingStage::Complete, &[], true), "complete");
        let kept = "complete; it stays so until `twinshare workspace settle`";
        check(settling(SettlingStage::Complete, &[], false), kept);
        let gone = ReplicaSettling {
            detail: Some("the peer is away\u{1b}".into()),
            ..settling(SettlingStage::Hydrating, &[], true)
        };
        check(gone, "the rest is being fetched; the peer is away\\u{1b}");
    }
}
