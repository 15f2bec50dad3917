//! `twinshare why`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use twinshare_daemon::api::wire::{
    Availability, Program, Reading, Why as Told, WhyCame, WhyDirectory, WhyFile, WhyFound, WhyPlace,
    WhyPresence, WhyWaitEnd, WhyWaited,
};

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::text::{ago, bytes, count, per_cent, shown, span};

/// Say what of a file is here, and why.
///
/// What of it has been fetched and what for, who waited for it and how long, and who waits now. Of a directory, how much
/// of all below it is here. What is remembered begins with the process that serves the mount or clone, and is kept of
/// the thousand files that were fetched, and the thousand that were waited for, last.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare why ~/twinshare/demo/data/model.bin
  twinshare why . --json | jq .found")]
pub(crate) struct Why {
    /// A file or directory in a workspace, mount or clone
    path: PathBuf,
    #[command(flatten)]
    format: Format,
}

impl Why {
    pub(crate) fn run(self) -> Result {
        let path = node::absolute(&self.path)?;
        let told = node::wait(async { Ok(node::client()?.why(&path).await?) })?;
        self.format.print(&told, people)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn people(told: &Told) -> Result<()> {
    lines(told).into_iter().try_for_each(line)
}

/// A line with its head.
fn row(head: &str, text: impl AsRef<str>) -> String {
    format!("{head:<15}{}", text.as_ref())
}

fn lines(told: &Told) -> Vec<String> {
    let mut lines = vec![row("path", shown(&told.path)), row("lies in", place(told))];
    if let Some(origin) = told.origin.as_ref().filter(|_| told.place != WhyPlace::SettledClone) {
        lines.push(row("at its origin", shown(origin)));
    }
    match &told.found {
        WhyFound::Local => {
            lines.push(row("here", "an ordinary file or directory of this machine: nothing is fetched"))
        }
        WhyFound::Symlink => lines.push(row("here", "a symbolic link, from the start")),
        WhyFound::Directory(directory) => lines.push(row("here", below(directory))),
        WhyFound::File(file) => lines.extend(file_lines(file, &peer(told))),
    }
    let is_local = matches!(told.found, WhyFound::Local | WhyFound::Symlink);
    if let Some(availability) = told.availability.filter(|_| !is_local) {
        lines.push(row(
            "peer",
            match availability {
                Availability::Reachable => "answers",
                Availability::Gone => "does not answer; what is here stays readable",
            },
        ));
    }
    lines
}

fn place(told: &Told) -> String {
    let directory = shown(&told.directory);
    let name = shown(&told.workspace);
    match told.place {
        WhyPlace::Workspace => format!("the workspace {name} of this machine, {directory}"),
        WhyPlace::Mount => format!("the mount of {}/{name}, {directory}", peer(told)),
        WhyPlace::Clone => format!("the clone of {}/{name}, {directory}", peer(told)),
        WhyPlace::SettledClone => {
            format!("a clone of {}/{name} that has settled, {directory}", peer(told))
        }
    }
}

fn peer(told: &Told) -> String {
    let peer = told.peer.as_ref();
    peer.map(|peer| shown(peer.name.as_deref().unwrap_or(&peer.short_id))).unwrap_or_default()
}

fn below(directory: &WhyDirectory) -> String {
    let WhyDirectory { made_here, files_total, files_here, bytes_total, bytes_here } = directory;
    if *made_here {
        return "made here: its origin has nothing there".to_owned();
    }
    match (files_here, bytes_here) {
        (Some(here), Some(size)) => format!(
            "{here} of {} below it, {} of {} ({} %)",
            count(*files_total, "file"),
            bytes(*size),
            bytes(*bytes_total),
            per_cent(*size, *bytes_total)
        ),
        _ => format!("being counted, of {} below it, {}", count(*files_total, "file"), bytes(*bytes_total)),
    }
}

fn file_lines(file: &WhyFile, peer: &str) -> Vec<String> {
    let mut lines = vec![row("here", here(file))];
    let is_served = !matches!(file.presence, WhyPresence::Substitute) && file.blocks_total > 0;
    match &file.came {
        Some(came) => lines.push(row("came", format!("from {peer}, {}", how(came)))),
        None if is_served && file.blocks_here > 0 => lines.push(row("came", not_remembered(file))),
        None => {}
    }
    match &file.waited {
        Some(waited) => lines.extend(waits(waited)),
        None if is_served => {
            lines.push(row("waited for", format!("by nobody since {}", ago(file.remembered_since))))
        }
        None => {}
    }
    lines.extend(file.reading.iter().map(|reading| row("reading now", waiting(reading))));
    lines
}

fn not_remembered(file: &WhyFile) -> String {
    format!("before {}, or before the last thousand files", ago(file.remembered_since))
}

fn here(file: &WhyFile) -> String {
    let size = bytes(file.bytes);
    let blocks = format!("{} of {} blocks", file.blocks_here, file.blocks_total);
    let changed = if file.changed { "; it was changed here" } else { "" };
    match file.presence {
        WhyPresence::Virtual => format!("nothing yet, of {size}{changed}"),
        WhyPresence::Partial => {
            format!("{blocks} ({} %), of {size}{changed}", per_cent(file.blocks_here, file.blocks_total))
        }
        WhyPresence::Resident => format!("all of it, {size}"),
        WhyPresence::Local => format!("all of it, {size}; it was made or changed here"),
        WhyPresence::Substitute => {
            format!("all of it, {size}; it is made here in place of the origin's git configuration")
        }
    }
}

fn how(came: &WhyCame) -> String {
    let parts = [
        (came.bytes_demand, "that somebody waited for"),
        (came.bytes_read_ahead, "ahead of somebody who read"),
        (came.bytes_background, "in the background"),
    ];
    let parts = parts.iter().filter(|(size, _)| *size > 0);
    let parts: Vec<_> = parts.map(|(size, what)| format!("{} {what}", bytes(*size))).collect();
    let when = match came.first == came.last {
        true => ago(came.last),
        false => format!("first {}, last {}", ago(came.first), ago(came.last)),
    };
    format!("{when}: {}", parts.join(", "))
}

fn waits(waited: &WhyWaited) -> Vec<String> {
    let first = row(
        "waited for",
        format!("{}, first by {}", count(waited.times, "time"), who(waited.first_by.as_ref())),
    );
    let end = match (waited.last_end, &waited.error) {
        (WhyWaitEnd::Served, _) => String::new(),
        (WhyWaitEnd::Failed, Some(why)) => format!("; it failed: {}", shown(why)),
        (WhyWaitEnd::Failed, None) => "; it failed".to_owned(),
        (WhyWaitEnd::GivenUp, _) => "; it was interrupted".to_owned(),
    };
    let took = span(Duration::from_millis(waited.last_ms));
    let last = format!("{} by {}, for {took}{end}", ago(waited.last), who(waited.last_by.as_ref()));
    vec![first, row("last wait", last)]
}

/// A read that waits: `python3 (pid 4711), waiting 1.2 s`.
fn waiting(reading: &Reading) -> String {
    let waits = span(Duration::from_millis(reading.waits_ms));
    format!("{}, waiting {waits}", who(reading.program.as_ref()))
}

fn who(program: Option<&Program>) -> String {
    match program {
        Some(Program { pid, name }) => format!("{} (pid {pid})", shown(name)),
        None => "a program that cannot be seen from here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use twinshare_daemon::api::wire::{PeerRef, UnixTime};

    use super::*;

    fn told(place: WhyPlace, found: WhyFound) -> Told {
        Told {
            path: "/m/demo/a".into(),
            place,
            workspace: "demo".into(),
            peer: (place != WhyPlace::Workspace).then(|| PeerRef {
                id: "p".into(),
                short_id: "p".into(),
                name: Some("anna".into()),
            }),
            availability: Some(Availability::Gone),
            directory: "/m/demo".into(),
            origin: (place != WhyPlace::Workspace).then(|| "/home/anna/demo/a".into()),
            found,
        }
    }

    fn file(presence: WhyPresence) -> WhyFile {
        WhyFile {
            presence,
            changed: false,
            bytes: 10_000_000,
            blocks_here: 12,
            blocks_total: 153,
            came: None,
            waited: None,
            reading: Vec::new(),
            remembered_since: UnixTime(0),
        }
    }

    #[track_caller]
    fn check(told: &Told, parts: &[&str]) {
        let said = lines(told).join("\n");
        for part in parts {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }

    #[test]
    fn a_file_on_its_way_is_told_of_whole() {
        let python = Program { pid: 4711, name: "python3\u{1b}".into() };
        let now = UnixTime::now();
        let on_its_way = WhyFile {
            came: Some(WhyCame {
                first: UnixTime(now.0 - 200),
                last: now,
                bytes_demand: 65_536,
                bytes_read_ahead: 500_000,
                bytes_background: 0,
            }),
            waited: Some(WhyWaited {
                times: 5,
                first_by: Some(python.clone()),
                last: now,
                last_ms: 1_200,
                last_by: None,
                last_end: WhyWaitEnd::Failed,
                error: Some("the peer left".into()),
            }),
            reading: vec![Reading { path: "/m/demo/a".into(), program: Some(python), waits_ms: 300 }],
            ..file(WhyPresence::Partial)
        };
        check(
            &told(WhyPlace::Mount, WhyFound::File(on_its_way)),
            &[
                "the mount of anna/demo, /m/demo",
                "at its origin  /home/anna/demo/a",
                "12 of 153 blocks (7 %), of 10 MB",
                "from anna, first 3 min ago, last now: 66 kB that somebody waited for, 500 kB ahead",
                "5 times, first by python3\\u{1b} (pid 4711)",
                "last wait      now by a program that cannot be seen from here, for 1.2 s; it failed: the peer left",
                "reading now    python3\\u{1b} (pid 4711), waiting 0.3 s",
                "peer           does not answer",
            ],
        );
    }

    #[test]
    fn what_is_here_is_said_in_a_word() {
        for (presence, part) in [
            (WhyPresence::Virtual, "nothing yet, of 10 MB"),
            (WhyPresence::Resident, "all of it, 10 MB"),
            (WhyPresence::Local, "made or changed here"),
            (WhyPresence::Substitute, "git configuration"),
        ] {
            check(&told(WhyPlace::Clone, WhyFound::File(file(presence))), &["the clone of anna/demo", part]);
        }
        let directory = WhyDirectory {
            made_here: false,
            files_total: 4,
            files_here: Some(1),
            bytes_total: 1000,
            bytes_here: Some(500),
        };
        let counted = told(WhyPlace::Clone, WhyFound::Directory(directory));
        check(&counted, &["1 of 4 files below it, 500 B of 1.0 kB (50 %)"]);
        let settled = told(WhyPlace::SettledClone, WhyFound::Local);
        check(&settled, &["that has settled", "an ordinary file or directory of this machine"]);
        check(&told(WhyPlace::Workspace, WhyFound::Local), &["the workspace demo of this machine"]);
    }
}
