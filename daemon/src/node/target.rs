//! What `[PEER/]NAME` means: which workspace of which peer.

use std::str::FromStr;

use twinshare_transport::identity::PeerId;

use crate::config::NodeName;
use crate::workspace::{BadWorkspaceName, WorkspaceName};

/// A workspace as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The peer's name, short id or id, where one was given.
    pub(crate) peer: Option<String>,
    /// The workspace's name at its peer.
    pub(crate) workspace: WorkspaceName,
}

/// A peer that offers the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) peer: PeerId,
    pub(crate) name: Option<NodeName>,
}

/// Splits at the last slash: a workspace's name holds none, a peer's may.
impl FromStr for Target {
    type Err = BadWorkspaceName;

    fn from_str(text: &str) -> Result<Self, BadWorkspaceName> {
        let (peer, workspace) = match text.rsplit_once('/') {
            Some((peer, workspace)) => (Some(peer.to_owned()), workspace),
            None => (None, text),
        };
        Ok(Self { peer, workspace: workspace.parse()? })
    }
}

impl Candidate {
    /// True if `text` is this peer's id, in either case, its short id or its name.
    pub(crate) fn is_called(&self, text: &str) -> bool {
        text.parse() == Ok(self.peer)
            || text.eq_ignore_ascii_case(&self.peer.short())
            || self.name.as_ref().is_some_and(|name| name.as_str() == text)
    }
}

/// The full names of `workspace` at each of the candidates: with the peer's name where that tells it from the others,
/// else with its short id.
pub(crate) fn full_names(candidates: &[Candidate], workspace: &WorkspaceName) -> Vec<String> {
    let is_unique =
        |name: &NodeName| candidates.iter().filter(|c| c.name.as_ref() == Some(name)).count() == 1;
    let shown = |candidate: &Candidate| match &candidate.name {
        Some(name) if is_unique(name) => name.to_string(),
        _ => candidate.peer.short(),
    };
    let mut names: Vec<_> = candidates.iter().map(|c| format!("{}/{workspace}", shown(c))).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(Option<&str>, &str)>) {
        let target = text.parse::<Target>().ok();
        let parts = target.as_ref().map(|target| (target.peer.as_deref(), target.workspace.as_str()));
        assert_eq!(parts, expected, "{text}");
    }

    #[test]
    fn a_target_is_a_name_with_or_without_its_peer() {
        check("demo", Some((None, "demo")));
        check("anna/demo", Some((Some("anna"), "demo")));
        check("a/b's box/demo", Some((Some("a/b's box"), "demo")));
        check("anna/", None);
        check("", None);
        check("anna/de mo", None);
    }

    fn candidate(id: u8, name: &str) -> Candidate {
        Candidate { peer: PeerId([id; 32]), name: (!name.is_empty()).then(|| name.parse().unwrap()) }
    }

    #[test]
    fn a_peer_is_called_by_name_short_id_or_id() {
        let anna = candidate(1, "anna");
        let id = anna.peer.to_string();
        for text in ["anna", &id, &id.to_uppercase(), &anna.peer.short()] {
            assert!(anna.is_called(text), "{text}");
        }
        for text in ["Anna", "ann", "", &id[..9], &candidate(2, "").peer.to_string()] {
            assert!(!anna.is_called(text), "{text}");
        }
    }

    fn sorted<const N: usize>(mut names: [String; N]) -> [String; N] {
        names.sort();
        names
    }

    #[test]
    fn full_names_tell_candidates_apart() {
        let demo = "demo".parse().unwrap();
        let short = |id| candidate(id, "").peer.short();
        let names = full_names(&[candidate(1, "bob"), candidate(2, "anna"), candidate(3, "")], &demo);
        assert_eq!(
            names,
            sorted(["anna/demo".to_owned(), "bob/demo".to_owned(), format!("{}/demo", short(3))])
        );
        let twins = sorted([1, 2].map(|id| format!("{}/demo", short(id))));
        assert_eq!(full_names(&[candidate(1, "anna"), candidate(2, "anna")], &demo), twins);
    }
}
