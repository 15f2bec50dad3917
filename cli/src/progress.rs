//! Follows what the node does in the background, and shows how far it is where somebody watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use twinshare_daemon::api::wire::{
    Operation, OperationResult, OperationState, Problem, Progress, ProgressUnit, Replica, ReplicaProgress,
};
use twinshare_daemon::client::Client;

use crate::error::{Error, Kind, Result, watched};
use crate::interrupts::{Interrupts, interrupted};
use crate::text;

/// How often the line moves while nothing is reported.
const TICK: Duration = Duration::from_millis(120);

/// Follows an operation that makes a replica to its end. Ctrl-C cancels it, and a second one leaves it to the node.
pub(crate) async fn follow(
    client: &Client,
    begun: Operation,
    interrupts: &mut Interrupts,
) -> Result<Replica> {
    let bar = bar();
    let id = begun.id.clone();
    let followed = tokio::select! {
        ended = client.follow_operation(begun, |now| bar.set_message(line(&now.progress))) => ended,
        () = interrupts.next() => {
            bar.set_message("giving up");
            interrupts.end(async { Ok(client.cancel_operation(&id).await) }).await?
        }
    };
    bar.finish_and_clear();
    let ended = followed?;
    match (ended.state, ended.result, ended.problem) {
        (OperationState::Succeeded, Some(OperationResult::Replica(replica)), _) => Ok(replica),
        (_, _, Some(problem)) => Err(Problem::into(problem)),
        (OperationState::Cancelled | OperationState::Running, ..) => Err(interrupted()),
        (OperationState::Succeeded | OperationState::Failed, ..) => {
            Err(Error::new(Kind::Failure, "the node does not say what came of it"))
        }
    }
}

/// A line that shows that something is done, where standard error is a terminal.
pub(crate) fn bar() -> ProgressBar {
    let target = if watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar for bytes of which there is a whole, where standard error is a terminal.
pub(crate) fn bytes_bar() -> ProgressBar {
    let bar = bar();
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} % {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Shows how much of a clone is here.
pub(crate) fn show_bytes(bar: &ProgressBar, progress: Option<&ReplicaProgress>, state: &str) {
    let Some(progress) = progress else { return bar.set_message(state.to_owned()) };
    bar.set_length(progress.bytes_total);
    if let Some(here) = progress.bytes_resident {
        bar.set_position(here);
    }
    let of_all = format!("of {}", text::bytes(progress.bytes_total));
    let rate = progress.bytes_per_s.map(|rate| format!(", {}/s", text::bytes(rate))).unwrap_or_default();
    let left = progress.left_s.map(|left| format!(", {} left", text::span(Duration::from_secs(left))));
    let left = left.unwrap_or_else(|| format!(", {state}"));
    bar.set_message(format!("{of_all}{rate}{left}"));
}

fn line(progress: &Progress) -> String {
    let step = text::shown(&progress.step);
    let amount = |count: u64| match progress.unit {
        ProgressUnit::Steps => count.to_string(),
        ProgressUnit::Entries => format!("{count} entries"),
        ProgressUnit::Files => text::count(count, "file"),
        ProgressUnit::Bytes => text::bytes(count),
    };
    match (progress.unit, progress.total) {
        (ProgressUnit::Steps, _) => step,
        (_, Some(total)) => format!("{step}: {} of {}", amount(progress.done), amount(total)),
        (_, None) if progress.done == 0 => step,
        (_, None) => format!("{step}: {}", amount(progress.done)),
    }
}
