//! What a command prints: tables and lines for people, JSON for programs.
//!
//! Everything goes through here, so that text from elsewhere is neutralised and a closed pipe ends the command
//! quietly.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde::Serialize;

use crate::error::Result;
use crate::text::shown;

/// How a read is printed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// Print the node's own JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Format {
    /// Prints `document` as JSON, or what `people` prints.
    pub(crate) fn print<T: Serialize>(
        self,
        document: &T,
        people: impl FnOnce(&T) -> Result<()>,
    ) -> Result<()> {
        match self.json {
            true => json(document),
            false => people(document),
        }
    }
}

/// Prints a line. Parts that come from elsewhere must have been made [`shown`].
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", text.as_ref())?)
}

/// Tells something beside the output.
pub(crate) fn note(text: impl AsRef<str>) -> Result<()> {
    Ok(writeln!(io::stderr().lock(), "{}", text.as_ref())?)
}

fn json<T: Serialize>(document: &T) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Rows of columns, each as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned).into()] }
    }

    /// Adds a row. Cells are made [`shown`] here.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(shown).into());
    }

    /// Prints it; without rows only `nothing`.
    pub(crate) fn print(&self, nothing: &str) -> Result<()> {
        match self.rows.len() {
            1 => line(nothing),
            _ => self.lines().iter().enumerate().try_for_each(|(index, text)| match index {
                0 => line(heading(text)),
                _ => line(text),
            }),
        }
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let pad = |(cell, width): (&String, &usize)| format!("{cell:<width$}");
        let join = |row: &Vec<String>| row.iter().zip(&widths).map(pad).collect::<Vec<_>>().join("  ");
        self.rows.iter().map(|row| join(row).trim_end().to_owned()).collect()
    }
}

/// A table's head, set apart where the terminal can.
fn heading(text: &str) -> String {
    match colours() {
        true => format!("\x1b[1m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// Whether standard output takes colours (<https://no-color.org>).
pub(crate) fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(["NAME", "PEER"]);
        table.row(["größer als", "a"]);
        table.row(["b\x1b", ""]);
        assert_eq!(table.lines(), ["NAME        PEER", "größer als  a", "b\\u{1b}"]);
    }
}
