//! `twinshare workspace resolve`

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{Keep, ResolveRequest, Resolved};

use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::{Format, line};
use crate::text::{bytes, count, shown};

/// Decide about files that changed both here and at the peer.
///
/// A file of a clone that changed at its peer before all of it was here is replaced by its new version, unless it was
/// changed here too: then it is kept as it is, reading what never came fails, and the clone does not become complete
/// until somebody decides. `twinshare workspace status` names such files, and those of which no version can be had.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace resolve --theirs ~/twinshare/demo/train.py
  twinshare workspace resolve --mine --yes data/a.csv data/b.csv")]
pub(crate) struct Resolve {
    /// Keep what is here; what never came of it becomes zeros
    #[arg(long, required_unless_present = "theirs", conflicts_with = "theirs")]
    mine: bool,
    /// Take the peer's version; what was changed here is dropped
    #[arg(long)]
    theirs: bool,
    /// Files in a clone
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

impl Resolve {
    pub(crate) fn run(self) -> Result {
        let keep = if self.mine { Keep::Mine } else { Keep::Theirs };
        let paths = self.paths.iter().map(|path| node::absolute(path)).collect::<Result<Vec<_>>>()?;
        let Some(resolved) = node::wait(async {
            let client = node::client()?;
            let mut asked = Vec::new();
            for path in &paths {
                asked.push(client.resolve(&ResolveRequest { path: path.clone(), keep: None }).await?);
            }
            if !self.confirmed(&question(keep, &asked))? {
                return Ok(None);
            }
            let mut resolved = Vec::new();
            for path in paths {
                resolved.push(client.resolve(&ResolveRequest { path, keep: Some(keep) }).await?);
            }
            Ok(Some(resolved))
        })?
        else {
            return Ok(ExitCode::SUCCESS);
        };
        self.format.print(&resolved, |resolved| resolved.iter().try_for_each(|file| line(in_words(file))))?;
        Ok(ExitCode::SUCCESS)
    }

    fn confirmed(&self, question: &str) -> Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            let message = format!("there is nobody to ask: {question}");
            return Err(Error::new(Kind::Usage, message).hint("say so with `--yes`"));
        }
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }
}

fn question(keep: Keep, files: &[Resolved]) -> String {
    let which = match files {
        [file] => shown(&file.path),
        files => count(files.len() as u64, "file"),
    };
    let missing = bytes(files.iter().map(|file| file.bytes_missing).sum());
    match keep {
        Keep::Mine => format!("keep {which} as here? {missing} that never came become zeros, for good."),
        Keep::Theirs => format!("take the peer's version of {which}? what was changed here is dropped."),
    }
}

fn in_words(file: &Resolved) -> String {
    let path = shown(&file.path);
    match file.keep {
        Some(Keep::Mine) => {
            format!("{path} is kept as it is here; {} of it are zeros", bytes(file.bytes_missing))
        }
        Some(Keep::Theirs) => format!("the peer's version takes the place of {path} as soon as it is here"),
        None => format!("{} of {path} never came", bytes(file.bytes_missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_said_before() {
        let file = |path: &str| Resolved { path: path.into(), keep: None, bytes_missing: 2_000_000 };
        let check = |keep, files: &[Resolved], expected: &str| assert_eq!(question(keep, files), expected);
        let one = "keep /d/f as here? 2.0 MB that never came become zeros, for good.";
        check(Keep::Mine, &[file("/d/f")], one);
        let two = "take the peer's version of 2 files? what was changed here is dropped.";
        check(Keep::Theirs, &[file("/d/f"), file("/d/g")], two);
    }
}
