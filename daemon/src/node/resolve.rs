//! Finds the workspace a person means among all that peers offer.

use std::sync::Arc;

use twinshare_transport::identity::PeerId;
use twinshare_transport::protocol::Offer;

use super::known::KnownPeer;
use super::peers::{Catalogue, Peers};
use super::target::{Target, full_names};
use crate::api::ApiError;
use crate::workspace::WorkspaceName;

/// A workspace of a peer that may be mounted and cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteWorkspace {
    pub(crate) peer: KnownPeer,
    pub(crate) workspace: WorkspaceName,
}

impl Peers {
    /// The one workspace that `[PEER/]NAME` means, and that this node may read.
    ///
    /// Without a peer, those that are there are asked, and all others only if none of those offers it: an absent peer
    /// costs its whole deadline.
    pub(crate) async fn resolve(self: &Arc<Self>, text: &str) -> Result<RemoteWorkspace, ApiError> {
        let target: Target = text.parse()?;
        let all = self.all().await?;
        let (first, then): (Vec<_>, Vec<_>) = match &target.peer {
            Some(peer) => (vec![the_one_called(all, peer, &target.workspace)?], Vec::new()),
            None => all.into_iter().partition(|peer| peer.online),
        };
        let offers = |catalogue: &Catalogue| offer(catalogue, &target.workspace).is_some();
        let mut answers = self.catalogues(first, offers).await;
        if !answers.iter().any(|(_, catalogue)| offers(catalogue)) {
            answers.extend(self.catalogues(then, offers).await);
        }
        choose(text, &target, answers)
    }
}

impl Peers {
    /// The catalogues of those peers that are there or were added by the user, or of those called `peer`.
    pub(crate) async fn offered(
        self: &Arc<Self>,
        peer: Option<&str>,
    ) -> Result<Vec<(KnownPeer, Catalogue)>, ApiError> {
        let mut all = self.all().await?;
        match peer {
            Some(peer) => all = called(all, peer)?,
            None => all.retain(KnownPeer::is_expected),
        }
        Ok(self.catalogues(all, |_| false).await)
    }
}

fn called(all: Vec<KnownPeer>, text: &str) -> Result<Vec<KnownPeer>, ApiError> {
    match all.into_iter().filter(|peer| peer.candidate().is_called(text)).collect::<Vec<_>>() {
        nobody if nobody.is_empty() => Err(ApiError::NoSuchPeer(text.to_owned())),
        peers => Ok(peers),
    }
}

/// The one peer that `text` means. Of those of one name, the one that happens to answer is not it: all that are known
/// count, whether or not they are there.
fn the_one_called(all: Vec<KnownPeer>, text: &str, workspace: &WorkspaceName) -> Result<KnownPeer, ApiError> {
    let mut peers = called(all, text)?;
    let first = peers.iter().find_map(|peer| peer.namesake);
    match (peers.pop(), peers.is_empty()) {
        (Some(peer), true) => Ok(peer),
        (last, _) => {
            Err(several_peers(text, peers.iter().chain(&last).map(|peer| peer.id), first, workspace))
        }
    }
}

fn several_peers(
    name: &str,
    peers: impl IntoIterator<Item = PeerId>,
    first: Option<PeerId>,
    workspace: &WorkspaceName,
) -> ApiError {
    ApiError::SeveralPeers {
        peer: name.to_owned(),
        first: first.map(|first| first.short()),
        candidates: peers.into_iter().map(|peer| format!("{}/{workspace}", peer.short())).collect(),
    }
}

fn offer<'a>(catalogue: &'a Catalogue, workspace: &WorkspaceName) -> Option<&'a Offer> {
    let offers = catalogue.as_ref().ok()?;
    offers.iter().find(|offer| *offer.workspace == *workspace.as_str())
}

/// Decides among the answers; `text` is what was asked for.
fn choose(
    text: &str,
    target: &Target,
    answers: Vec<(KnownPeer, Catalogue)>,
) -> Result<RemoteWorkspace, ApiError> {
    let workspace = &target.workspace;
    let offers = |(peer, catalogue)| offer(catalogue, workspace).map(|offer| (peer, offer));
    let offering: Vec<(&KnownPeer, &Offer)> =
        answers.iter().map(|(a, b)| (a, b)).filter_map(offers).collect();
    match offering.as_slice() {
        [] => Err(nobody(target, &answers)),
        // What has another's name is mounted by its id only.
        [(KnownPeer { id, name, namesake: Some(first), .. }, _)] if target.peer.is_none() => {
            Err(several_peers(name.as_str(), [*first, *id], Some(*first), workspace))
        }
        [(peer, offer)] if offer.readable => {
            Ok(RemoteWorkspace { peer: (*peer).clone(), workspace: workspace.clone() })
        }
        [(peer, _)] => Err(ApiError::NotAdmitted(format!("{}/{workspace}", peer.name))),
        several => {
            let candidates: Vec<_> = several.iter().map(|(peer, _)| peer.candidate()).collect();
            let candidates = full_names(&candidates, workspace);
            Err(ApiError::AmbiguousName { name: text.to_owned(), candidates })
        }
    }
}

/// Why nobody offers it. Of a peer that was named and did not answer, that is the reason.
fn nobody(target: &Target, answers: &[(KnownPeer, Catalogue)]) -> ApiError {
    if let (Some(_), [(peer, Err(error))]) = (&target.peer, answers) {
        return ApiError::Call { peer: peer.name.to_string(), error: error.clone() };
    }
    let workspace = target.workspace.to_string();
    let silent = answers.iter().filter(|(_, catalogue)| catalogue.is_err());
    let silent: Vec<_> = silent.map(|(peer, _)| peer.name.to_string()).collect();
    match answers.len() {
        // As for a peer that was named: it is not known whether there is such a workspace.
        asked if asked > 0 && asked == silent.len() => ApiError::NobodyAnswered { workspace, silent },
        asked => ApiError::NoSuchRemoteWorkspace { workspace, asked, silent },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use twinshare_transport::client::CallError;

    use super::*;

    fn peer(id: u8, name: &str) -> KnownPeer {
        KnownPeer {
            id: PeerId([id; 32]),
            name: name.parse().unwrap(),
            addresses: Vec::new(),
            last_seen: None,
            online: true,
            sources: Vec::new(),
            workspaces: Vec::new(),
            workspaces_total: None,
            first_met: None,
            namesake: None,
        }
    }

    fn offers(names: &[&str]) -> Catalogue {
        let offer = |name: &&str| Offer {
            workspace: name.trim_end_matches('!').into(),
            summary: "".into(),
            readable: !name.ends_with('!'),
            size: None,
        };
        Ok(names.iter().map(offer).collect())
    }

    /// `text` among the answers: the name of the peer chosen, or the code and text of the error.
    #[track_caller]
    fn check(text: &str, answers: Vec<(KnownPeer, Catalogue)>, expected: Result<&str, (&str, &str)>) {
        let chosen = choose(text, &text.parse().unwrap(), answers);
        match (chosen, expected) {
            (Ok(chosen), Ok(name)) => assert_eq!(chosen.peer.name.as_str(), name),
            (Err(error), Err((code, part))) => {
                assert_eq!(error.code(), code);
                assert!(error.to_string().contains(part), "{error}");
            }
            (chosen, _) => panic!("{text}: {chosen:?}"),
        }
    }

    #[test]
    fn one_is_chosen_or_the_reason_given() {
        let silent = || Err(CallError::Deadline(Duration::from_secs(6)));
        let anna = || (peer(1, "anna"), offers(&["demo", "closed!"]));
        let bob = || (peer(2, "bob"), offers(&["demo", "other"]));
        check("demo", vec![anna()], Ok("anna"));
        check("other", vec![anna(), bob()], Ok("bob"));
        check("other", vec![(peer(1, "anna"), silent()), bob()], Ok("bob"));
        check("demo", vec![anna(), bob()], Err(("ambiguous_name", "anna/demo, bob/demo")));
        check("closed", vec![anna()], Err(("peer_refused", "anna/closed")));
        check("none", vec![anna(), bob()], Err(("no_such_remote_workspace", "2 asked")));
        check("none", vec![], Err(("no_such_remote_workspace", "0 asked")));
        let many = || (1..=9).map(|id| (peer(id, &format!("p{id}")), silent())).collect::<Vec<_>>();
        check("demo", many(), Err(("peer_unreachable", "from p1, p2, p3, p4, p5 and 4 others")));
        let but_one = many().into_iter().chain([(peer(10, "bob"), offers(&["other"]))]).collect();
        check("demo", but_one, Err(("no_such_remote_workspace", "10 asked; no answer from p1")));
        let answers = vec![(peer(1, "anna"), silent()), bob()];
        check("demo2", answers, Err(("no_such_remote_workspace", "no answer from anna")));
        check("anna/demo", vec![(peer(1, "anna"), silent())], Err(("peer_unreachable", "anna: ")));
        let pretender =
            || (KnownPeer { namesake: Some(PeerId([1; 32])), ..peer(2, "anna") }, offers(&["demo"]));
        let known = PeerId([1; 32]).short();
        check(
            "demo",
            vec![pretender()],
            Err(("ambiguous_name", &format!("this node knows {known} longest"))),
        );
        check(&format!("{}/demo", PeerId([2; 32]).short()), vec![pretender()], Ok("anna"));
        check(
            "demo",
            vec![pretender(), (peer(3, "bob"), offers(&["demo"]))],
            Err(("ambiguous_name", "anna/demo, bob/demo")),
        );
    }

    #[test]
    fn a_peer_is_found_by_what_it_is_called() {
        let all = vec![peer(1, "anna"), peer(2, "anna"), peer(3, "bob")];
        assert_eq!(called(all.clone(), "anna").unwrap().len(), 2);
        assert_eq!(called(all.clone(), &PeerId([3; 32]).short()).unwrap(), [all[2].clone()]);
        assert_eq!(called(all, "carl").unwrap_err().code(), "no_such_peer");
    }

    #[test]
    fn of_two_peers_of_a_name_neither_is_taken_unless_it_is_named_by_its_id() {
        let away = KnownPeer { online: false, ..peer(1, "anna") };
        let all = vec![KnownPeer { namesake: Some(away.id), ..peer(2, "anna") }, away, peer(3, "bob")];
        let demo = "demo".parse().unwrap();
        let the_one = |text: &str| the_one_called(all.clone(), text, &demo);
        assert_eq!(the_one("bob").unwrap().id, PeerId([3; 32]));
        assert_eq!(the_one(&PeerId([2; 32]).short()).unwrap().id, PeerId([2; 32]));
        let error = the_one("anna").unwrap_err();
        let [first, second] = [1, 2].map(|id| PeerId([id; 32]).short());
        assert_eq!(error.code(), "ambiguous_name");
        assert_eq!(error.problem(None).candidates, [format!("{second}/demo"), format!("{first}/demo")]);
        let told = format!(
            "2 nodes call themselves `anna`; this node knows {first} longest: {second}/demo, {first}/demo"
        );
        assert_eq!(error.to_string(), told);
    }
}
