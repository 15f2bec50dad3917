//! `docs/cli.md`, made from the commands' own definition.

use std::fmt::Write;

use clap::{Arg, Command};

use crate::commands::definition;
use crate::error::{Kind, Result};
use crate::output::line;

/// Prints the reference.
pub(crate) fn print() -> Result<()> {
    line(markdown().trim_end())
}

/// The reference of all commands that are not hidden.
fn markdown() -> String {
    let mut whole = definition();
    whole.build();
    let mut text = String::from(
        "# The command line\n\n\
         Made by `twinshare reference` from what `--help` says; a test keeps it current.\n\n\
         Output meant for programs is printed with `--json`: the documents of the node's REST interface, as its \
         OpenAPI description defines them. Messages go to standard error. Colours are used on terminals only, and \
         not if `NO_COLOR` is set. `TWINSHARE_HOME` names the node's home, so that several nodes can live on one \
         machine; without it, the XDG base directories are used.\n\n",
    );
    section(&whole, &mut text);
    text.push_str("## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | done |\n");
    for (kind, meaning) in Kind::ALL {
        let _ = writeln!(text, "| {} | {meaning} |", kind.code());
    }
    text.push_str(
        "\n`twinshare run` and `twinshare shell` otherwise end with the command's own exit code, or with 128 and the \
         number of the signal that ended it.\n",
    );
    text
}

fn section(command: &Command, text: &mut String) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let _ = write!(text, "## `{name}`\n\n{}\n\n", sentence(about));
    if let Some(examples) = command.get_before_help() {
        let examples = examples.to_string();
        let lines = examples.lines().skip(1).map(|line| line.strip_prefix("  ").unwrap_or(line));
        let _ = write!(text, "```\n{}\n```\n\n", lines.collect::<Vec<_>>().join("\n"));
    }
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version")
    };
    let mut arguments: Vec<_> = command.get_arguments().filter(shown).collect();
    arguments.sort_by_key(|argument| !argument.is_positional());
    if !arguments.is_empty() {
        text.push_str("| argument | meaning |\n|---|---|\n");
        for argument in arguments {
            let _ = writeln!(text, "| `{}` | {} |", spelling(argument), meaning(argument));
        }
        text.push('\n');
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        section(sub, text);
    }
}

/// How an argument is typed; `|` would end a table's cell.
fn spelling(argument: &Arg) -> String {
    let mut plain = argument.clone();
    plain = plain.help("");
    plain.to_string().replace('|', "\\|")
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let paragraphs = help.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let whole = paragraphs.map(sentence).collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let default = argument.get_default_values().first();
    let default =
        default.filter(|_| argument.get_action().takes_values() && !argument.is_hide_default_value_set());
    match default {
        Some(value) => format!("{whole} Default: `{}`.", value.display()),
        None => whole,
    }
}

/// Text with the full stop that help leaves out.
fn sentence(text: String) -> String {
    if text.ends_with('.') { text } else { text + "." }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TWINSHARE_UPDATE_DOCS=1 cargo test -p twinshare reference` writes the file anew.
    #[test]
    fn the_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        if std::env::var_os("TWINSHARE_UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == markdown(), "docs/cli.md is out of date: run with TWINSHARE_UPDATE_DOCS=1 once");
    }
}
