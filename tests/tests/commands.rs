//! Every command as people type it, on real nodes: what it prints, the document it prints with `--json`, and the exit codes
//! that scripts rely on.

use std::{cell::RefCell, collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use twinshare_tests::{
    host::{Disk, Host, write_file},
    link::{Link, Rate},
    node::{COMMAND_BOUND, User, Who},
    program::Ended,
    wait,
};

/// What `docs/cli.md` says of every command.
const REFERENCE: &str = include_str!("../../docs/cli.md");

const PROJECT: &str = "/home/project";
const BOUND: Duration = Duration::from_secs(60);

/// The user of a node, and every command that was typed for it.
struct Typist<'hosts> {
    user: User<'hosts>,
    typed: &'hosts RefCell<BTreeSet<String>>,
}

impl Typist<'_> {
    fn ended(&self, line: &str) -> Result<Ended> {
        let words: Vec<_> = line.split(' ').collect();
        for length in 1..=2.min(words.len()) {
            let json = if words.contains(&"--json") { " --json" } else { "" };
            self.typed.borrow_mut().insert(format!("{}{json}", words[..length].join(" ")));
        }
        self.user.twinshare(&words).run(COMMAND_BOUND)
    }

    /// A command that works, and what it prints.
    fn says(&self, line: &str, parts: &[&str]) -> Result<String> {
        let said = self.ended(line)?.success()?;
        for part in parts {
            ensure!(said.contains(part), "`{line}` does not say {part:?}: {said}");
        }
        Ok(said)
    }

    /// The document of a command that works.
    fn document(&self, line: &str) -> Result<Value> {
        let said = self.ended(&format!("{line} --json"))?.success()?;
        serde_json::from_str(&said).with_context(|| format!("`{line} --json` printed no JSON: {said}"))
    }

    /// A command that ends with `code`, and whose standard error has all `parts`.
    fn ends(&self, line: &str, code: i32, parts: &[&str]) -> Result<()> {
        let ended = self.ended(line)?;
        ensure!(ended.status.code() == Some(code), "not with {code}: {}", ended.told());
        let said = String::from_utf8_lossy(&ended.stderr);
        for part in parts {
            ensure!(said.contains(part), "`{line}` does not say {part:?}: {said}");
        }
        Ok(())
    }
}

/// Two machines, their users, and what was typed on both.
fn with_two(act: impl FnOnce(&Typist<'_>, &Typist<'_>, &Link) -> Result<()>) -> Result<BTreeSet<String>> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let link = Link::between(&ada, &ben, 1, Rate::Unlimited)?;
    write_file(&ada, &format!("{PROJECT}/hello.sh"), b"#!/bin/sh\necho hello from $PWD\n")?;
    write_file(&ada, &format!("{PROJECT}/fails.sh"), b"exit 42\n")?;
    write_file(&ada, &format!("{PROJECT}/data"), &[7; 100_000])?;
    let typed = RefCell::default();
    let a = Typist { user: User::new(&ada, Who::Root), typed: &typed };
    let b = Typist { user: User::new(&ben, Who::Root), typed: &typed };
    let told = act(&a, &b, &link);
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", a.user.log(), b.user.log()))?;
    Ok(typed.take())
}

/// Both nodes run and have met; `project` is shared.
fn share(a: &Typist<'_>, b: &Typist<'_>) -> Result<()> {
    a.says("p2p start", &["node ada started", "reached at"])?;
    b.says("p2p start", &["node ben started"])?;
    b.says("p2p discover --wait 30", &["ada", "online"])?;
    a.says(&format!("workspace create {PROJECT}"), &["workspace project in /home/project"])?;
    a.says("workspace share project --open", &["anyone on this network", "workspace unshare project"])?;
    Ok(())
}

#[test]
fn every_command_does_what_its_help_says() -> Result<()> {
    let typed = with_two(|a, b, link| {
        without_a_node(a)?;
        nodes(a, b, link)?;
        workspaces(a, b)?;
        replicas(a, b)?;
        runs(b)?;
        endings(a, b)
    })?;
    // `demo` has a test of its own.
    let missing: Vec<_> = documented().into_iter().filter(|command| !typed.contains(command)).collect();
    ensure!(missing == ["demo"], "never typed here: {missing:?}");
    Ok(())
}

/// Every command of the reference that has no commands of its own, once more with `--json` where it takes that.
fn documented() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(name) = line.strip_prefix("## `twinshare ").and_then(|rest| rest.strip_suffix('`')) {
            found.push(name.to_owned());
        }
        if line.starts_with("| `--json`") {
            found.extend(found.last().map(|command| format!("{command} --json")));
        }
    }
    let is_group = |name: &String| {
        found.iter().any(|other| {
            other.strip_prefix(name).is_some_and(|rest| rest.starts_with(" ") && rest != " --json")
        })
    };
    found.iter().filter(|name| !is_group(name)).cloned().collect()
}

fn without_a_node(a: &Typist<'_>) -> Result<()> {
    for line in [
        "p2p status",
        "p2p discover",
        "p2p add ben",
        "workspace create /home/project",
        "workspace list",
        "workspace list --remote",
        "workspace show project",
        "workspace rm project --yes",
        "workspace clone project",
        "workspace status project",
        "workspace wait project",
        "workspace settle project",
        "mount project",
        "unmount project",
        "run project -- true",
        "shell project",
    ] {
        a.ends(line, 4, &["error: the node is not running", "hint: start it with `twinshare p2p start`"])?;
    }
    a.says("p2p stop", &["the node is not running"])?;
    // Looks at the machine all the same.
    let checks = a.document("doctor")?;
    let named =
        |name| checks["items"].as_array().is_some_and(|all| all.iter().any(|check| check["name"] == name));
    ensure!(["fuse", "namespaces", "node"].into_iter().all(named), "{checks}");
    a.says("doctor", &["the node is not running", "twinshare p2p start"])?;
    for line in ["workspace share", "run", "p2p discover --wait soon", "no-such-command"] {
        a.ends(line, 2, &["error: "])?;
    }
    Ok(())
}

fn nodes(a: &Typist<'_>, b: &Typist<'_>, link: &Link) -> Result<()> {
    a.says("p2p start", &["node ada started", "reached at"])?;
    a.says("p2p start", &["already running"])?;
    b.says("p2p start", &["node ben started"])?;
    a.says("p2p status", &["node         ada", "discovery    on"])?;
    ensure!(a.document("p2p status")?["name"] == "ada");
    // Asks the network, so that one question is enough once both nodes are up.
    b.says("p2p discover --wait 30", &["NAME", "ada", "online"])?;
    let peers = b.document("p2p discover")?;
    ensure!(peers["items"][0]["name"] == "ada" && peers["items"][0]["online"] == true, "{peers}");
    b.says(&format!("p2p add {}", link.first_address()), &["ada (id ", "is known from now on"])?;
    ensure!(b.document(&format!("p2p add {}", link.first_address()))?["name"] == "ada");
    b.ends("p2p add 10.91.1.77", 5, &["error: ", "hint: "])?;
    b.ends("p2p add 10.91.1.77:port", 2, &["`port` is not a port"])?;
    ensure!(b.document("doctor")?["items"].as_array().is_some_and(|checks| checks.len() > 6));
    b.says("doctor", &["discovery"]).map(drop)
}

fn workspaces(a: &Typist<'_>, b: &Typist<'_>) -> Result<()> {
    a.says("workspace list", &["no workspaces here"])?;
    let nothing = b.ended("workspace list --remote")?;
    ensure!(String::from_utf8_lossy(&nothing.stderr).contains("hint: "), "{}", nothing.told());
    ensure!(nothing.success()?.contains("nobody offers a workspace"));
    let created = a.document(&format!("workspace create {PROJECT}"))?;
    ensure!(created["name"] == "project" && created["file_written"] == true, "{created}");
    a.says(&format!("workspace create {PROJECT}"), &["twinshare.yaml was kept"])?;
    a.ends("workspace create /no/such", 1, &["error: ", "hint: "])?;
    a.ends("workspace create /root", 1, &["/root is your home directory", "hint: "])?;
    a.ends("workspace create /", 1, &["/ holds your home directory", "hint: "])?;
    // Without `--open` nobody is let in.
    a.says("workspace share project", &["nobody is admitted yet"])?;
    ensure!(a.document("workspace share project")?["open"] == false);
    ensure!(b.document("workspace list --remote")?["items"].as_array().is_some_and(Vec::is_empty));
    b.ends("mount ada/project", 3, &["error: ", "hint: "])?;
    a.says("workspace share project --open", &["anyone on this network"])?;
    a.ends("workspace share nothing", 3, &["`nothing`", "hint: "])?;
    a.says("workspace list", &["NAME", "project", "open", PROJECT])?;
    let here = a.document("workspace list")?;
    ensure!(
        here["workspaces"][0]["share"]["open"] == true && here["mounts"] == Value::Array(vec![]),
        "{here}"
    );
    a.says("workspace show project", &["workspace      project", "shared         open"])?;
    ensure!(a.document("workspace show project")?["directory"] == PROJECT);
    let offered = || Ok(b.document("workspace list --remote")?["items"][0]["name"] == "project");
    wait::until_true("the workspace to be offered", BOUND, offered)?;
    b.says("workspace list --remote", &["NAME", "PEER", "project", "ada"]).map(drop)
}

fn cache(b: &Typist<'_>) -> Result<()> {
    b.says("pin", &["nothing is pinned"])?;
    b.says("pin /home/here/data --wait --timeout 60", &["/home/here/data is pinned and all here"])?;
    let pins = b.document("pin")?;
    ensure!(pins[0]["path"] == "/home/here/data" && pins[0]["complete"] == true, "{pins}");
    b.ends("pin /home/copy/data", 1, &["hint: "])?;
    b.ends("pin /home/here/none", 3, &["there is nothing at /home/here/none"])?;
    b.says("cache status", &["used ", "disk free ", "/home/here"])?;
    ensure!(b.document("cache status")?["bytes_max"].as_u64() > Some(0));
    b.says("cache prune --older-than 7d", &[" freed: 0 files"])?;
    ensure!(b.document("cache prune")?["bytes"].is_u64());
    b.ends("cache prune --older-than soon", 2, &["--older-than"])?;
    b.says("unpin /home/here/data", &["/home/here/data is not pinned any more"])?;
    b.ends("unpin /home/here/data", 3, &["is not pinned"]).map(drop)
}

fn replicas(a: &Typist<'_>, b: &Typist<'_>) -> Result<()> {
    let later = format!("{PROJECT}/later");
    write_file(a.user.host(), &later, b"when it was cloned")?;
    b.says("mount ada/project", &["/root/twinshare/peers/ada/project\n"])?;
    let view = b.document("mount project /home/here")?;
    ensure!(view["directory"] == "/home/here" && view["kind"] == "view", "{view}");
    // What is there already is not made anew, and that is said.
    ensure!(view.get("was_there").is_none(), "{view}");
    ensure!(b.document("mount project /home/here")?["was_there"] == true);
    b.ends(
        "mount project /home/here",
        0,
        &["was there already", "twinshare workspace status /home/here", "ada/project"],
    )?;
    b.ends("mount project /proc/x", 1, &["/proc/x cannot be used: it cannot be made"])?;
    b.ends("mount nobody/project", 3, &["no peer is called", "hint: "])?;
    b.ends("mount project /home/elsewhere --when-gone never", 2, &["when_gone"])?;
    let clone = b.document("workspace clone project --no-settle")?;
    ensure!(clone["kind"] == "clone" && clone["directory"] == "/root/twinshare/project", "{clone}");
    b.ends("workspace clone project", 0, &["was there already", "workspace rm /root/twinshare/project"])?;
    b.says("workspace clone ada/project /home/copy --no-settle", &["ada/project is in /home/copy"])?;
    write_file(b.user.host(), "/home/full/file", b"")?;
    b.ends("workspace clone project /home/full", 1, &["it is not empty", "hint: "])?;
    let here = b.document("workspace list")?;
    ensure!(here["mounts"].as_array().map(Vec::len) == Some(2), "{here}");
    ensure!(here["clones"].as_array().map(Vec::len) == Some(2), "{here}");
    b.says("workspace list", &["ada/project", "mount", "clone", "/home/here", "/home/copy"])?;
    b.says("workspace show /home/copy", &["clone          ada/project", "peer           answers"])?;
    ensure!(b.document("workspace show /home/here")?["kind"] == "view");
    b.says("workspace status /home/here", &["mount          ada/project", "state          mounted\n"])?;
    why(b)?;
    cache(b)?;
    b.ends("workspace wait /home/here", 2, &["is a mount, not a clone", "workspace clone ada/project"])?;
    b.says("workspace wait /home/copy --timeout 60", &["/home/copy is mounted, complete; it stays so"])?;
    ensure!(b.document("workspace status /home/copy")?["settling"]["stage"] == "complete");
    b.ends(
        "workspace resolve --theirs /home/copy/data",
        1,
        &["nothing is to be decided", "workspace status"],
    )?;
    b.ends("workspace resolve --mine /home/copy/none --json", 3, &["there is nothing at"])?;

    let places = ["/home/here", "/home/copy", "/root/twinshare/project", "/root/twinshare/peers/ada/project"];
    let several = [&["is the name of several"], places.as_slice()].concat();
    b.ends("workspace show project", 3, &several)?;
    b.ends("run ada/project -- true", 3, &several)?;
    b.ends("unmount project", 3, &["is the name of several: ", "/home/here", "hint: "])?;
    b.ends("unmount /home/copy", 2, &["is a clone, not a mount", "workspace rm /home/copy"])?;
    b.ends("workspace rm /home/here --yes", 2, &["twinshare unmount /home/here"])?;
    // It asks where something would be lost.
    b.user.program("touch").arg("/home/copy/mine").run(COMMAND_BOUND)?.success()?;
    b.ends("workspace rm /home/copy", 2, &["--yes"])?;

    let user = b.user.program("sleep").arg("1000").dir("/home/here").start()?;
    b.ends("unmount /home/here", 6, &["error: ", "is in use by sleep", "hint: "])?;
    drop(user);
    // The command is not in its own way.
    let unmounted = b.user.twinshare(&["unmount", "."]).dir("/home/here").run(COMMAND_BOUND)?.success()?;
    ensure!(unmounted.contains("/home/here is unmounted"), "{unmounted}");
    b.ends("unmount /home/here", 3, &["nothing here is called", "hint: "])?;
    // In the user's home, where `twinshare` is a directory.
    b.ends("unmount twinshare", 3, &["nothing here is called", "write `./twinshare`"])?;
    b.ends("run twinshare -- true", 3, &["write `./twinshare`"])?;
    // What changes at the origin is not mixed with what was mounted: it is stale until the mount goes on to it. A clone,
    // which had it, keeps it.
    write_file(a.user.host(), &later, b"something else now")?;
    let view = "/root/twinshare/peers/ada/project";
    let read = |at: &str, name: &str| b.user.program("cat").arg(format!("{at}/{name}")).run(BOUND);
    wait::until_true("the mount to go on", BOUND, || {
        let ended = read(view, "later")?;
        let is_new = ended.status.success();
        let said = if is_new { ended.success()? } else { ended.failure()? };
        let expected = if is_new { "something else now" } else { "Stale file handle" };
        ensure!(said.contains(expected), "{said}");
        Ok(is_new)
    })?;
    ensure!(read(view, "fails.sh")?.success()? == "exit 42\n");
    ensure!(read("/home/copy", "later")?.success()? == "when it was cloned");
    // A clone goes with what was fetched of it, and with its directory, which it made.
    b.says(
        "workspace rm /home/copy --yes",
        &["the clone in /home/copy is removed, with what was fetched of it"],
    )?;
    ensure!(!b.user.host().path("/home/copy").exists());
    // Settled, there is nothing to unmount and nothing to remove.
    b.document("workspace clone project /home/copy --no-settle")?;
    let user = b.user.program("sleep").arg("1000").dir("/home/copy").start()?;
    ensure!(b.document("workspace wait /home/copy")?["settling"]["by_itself"] == false);
    b.ends("workspace settle /home/copy", 6, &["is in use by sleep", "hint: "])?;
    b.says("workspace status /home/copy", &["complete, in use by sleep"])?;
    drop(user);
    b.says("workspace settle /home/copy", &["/home/copy is an ordinary directory now"])?;
    ensure!(b.document("workspace settle /home/copy")?["receipt"]["files"].as_u64() > Some(3));
    b.ends("unmount /home/copy", 2, &["there is nothing to unmount"])?;
    b.ends("workspace create /home/copy", 1, &["a clone of ada/project that has settled", "workspace rm"])?;
    b.says("why /home/copy/fails.sh", &["that has settled", "an ordinary file"])?;
    b.says("workspace rm /home/copy --yes", &["the clone is forgotten", "its files stay"])?;
    ensure!(read("/home/copy", "fails.sh")?.success()? == "exit 42\n");
    // Of a clone and a mount of one name, the clone has more to tell.
    b.says("workspace status project", &["clone          ada/project"])?;
    b.ends("workspace status project", 0, &["also a mount: /root/twinshare/peers/ada/project"])?;
    // A directory below the current one is one too, and a directory in a workspace is where a run starts.
    b.says("workspace show twinshare/project", &["clone          ada/project"])?;
    for directory in
        ["twinshare/project", "./twinshare/project", "twinshare/project/", "twinshare//project/."]
    {
        b.says(&format!("run {directory} -- pwd"), &[PROJECT])?;
    }
    b.says("workspace rm twinshare/project --yes", &["is removed"]).map(drop)
}

fn why(b: &Typist<'_>) -> Result<()> {
    let parts = ["the mount of ada/project, /home/here", "at its origin  /home/project/data", "nothing yet"];
    b.says("why /home/here/data", &parts)?;
    b.user.program("cat").arg("/home/here/data").run(BOUND)?.success()?;
    let told = b.document("why /home/here/data")?;
    let found = &told["found"];
    ensure!(told["place"] == "mount" && found["presence"] == "resident", "{told}");
    ensure!(found["came"]["bytes_demand"].as_u64() > Some(0), "{told}");
    ensure!(found["waited"]["first_by"]["name"] == "cat", "{told}");
    b.says("why /home/here/data", &["all of it, 100 kB", "from ada, ", "first by cat (pid"])?;
    b.says("why /home/here", &["files below it", "peer           answers"])?;
    b.ends("why /home/here/none", 3, &["there is nothing at /home/here/none"])?;
    b.ends("why /proc", 3, &["lies in no workspace", "hint: "])
}

fn runs(b: &Typist<'_>) -> Result<()> {
    let ran = b.ended("run ada/project -- sh hello.sh")?;
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(
        told.contains("isolation: ") && told.contains("mount") && told.contains("no new privileges"),
        "{told}"
    );
    ensure!(ran.success()? == format!("hello from {PROJECT}\n"));
    b.ends("run project -- sh fails.sh", 42, &["isolation: "])?;
    b.ends("run project -- no-such-command", 127, &["no such command"])?;
    b.ends("run project -- /home/project/data", 126, &["error: "])?;
    b.ends("run project", 2, &["hint: "])?;
    // What belongs to another node of the user is hidden, too, wherever it lies.
    let second = Typist { user: b.user.isolated("/srv/two"), typed: b.typed };
    second.says("p2p start", &["node ben started"])?;
    second.says("p2p stop", &["node stopped"])?;
    ensure!(b.user.host().path("/srv/two/state/identity.key").exists());
    for key in ["/srv/two/state/identity.key", "/root/.local/state/twinshare/identity.key"] {
        b.ends(&format!("run project -- cat {key}"), 1, &["No such file"])?;
        b.ends(&format!("run --home project -- cat {key}"), 1, &["No such file"])?;
    }
    write_file(b.user.host(), "/srv/beside", b"seen")?;
    b.says("run project -- cat /srv/beside", &["seen"])?;
    b.ends("run nothing -- true", 3, &["error: ", "hint: "])?;
    b.ends("run /home -- true", 3, &["lies in no workspace"])?;
    // A shell without a terminal ends with its input, which is empty here.
    b.ends("shell project", 0, &["isolation: "])
}

fn endings(a: &Typist<'_>, b: &Typist<'_>) -> Result<()> {
    // Whoever read the output has gone.
    let script = "twinshare p2p status | sleep 0; echo ${PIPESTATUS[0]}";
    let closed = a.user.program("bash").args(["-c", script]).run(BOUND)?.success()?;
    ensure!(["0", "141"].contains(&closed.trim()), "{closed}");
    a.says("workspace unshare project", &["is not shared any more"])?;
    a.ends("workspace unshare nothing", 3, &["`nothing`"])?;
    b.says("unmount ada/project", &["is unmounted"])?;
    b.ends("mount ada/project", 3, &["error: "])?;
    // At a terminal it asks, and no is no error but is not done either.
    let asked = "printf 'n\\n' | script -qec 'twinshare workspace rm project' /dev/null";
    let asked = a.user.program("bash").args(["-o", "pipefail", "-c", asked]).run(BOUND)?;
    ensure!(asked.status.code() == Some(1), "{}", asked.told());
    let told = String::from_utf8_lossy(&asked.stdout).into_owned();
    ensure!(told.contains("its files stay. [y/N]") && told.contains("nothing was removed"), "{told}");
    ensure!(!told.contains("error"), "{told}");
    a.says("workspace rm project --yes", &["is forgotten; its files are in /home/project"])?;
    ensure!(fs::metadata(a.user.host().path(PROJECT).join("data"))?.len() == 100_000);
    a.says("p2p stop", &["node stopped"])?;
    // Its goodbye counts at once, however lately it was met.
    let away = || Ok(b.document("p2p discover --wait 0")?["items"][0]["online"] == false);
    wait::until_true("the peer to be away", Duration::from_secs(5), away)?;
    b.ends("mount project /home/late", 5, &["no answer from ada", "hint: "])?;
    write_file(b.user.host(), "/root/.config/twinshare/config.yaml", b"nmae: ben\n")?;
    b.ends("doctor", 1, &[])?;
    let told = String::from_utf8_lossy(&b.ended("doctor")?.stdout).into_owned();
    ensure!(told.contains("would not start again") && told.contains("nmae"), "{told}");
    let stopped = b.document("p2p stop")?;
    ensure!(stopped["stopped"] == true && stopped["stays"] == serde_json::json!([]), "{stopped}");
    b.says("p2p stop", &["the node is not running"]).map(drop)
}

/// A name that several peers offer, and one that is somebody's own and a peer's: the message has what to type instead.
#[test]
fn a_name_of_several_is_refused_with_what_to_type() -> Result<()> {
    with_two(|a, b, _link| {
        let second = Typist { user: a.user.isolated("/home/second"), typed: a.typed };
        write_file(a.user.host(), "/home/second/config/config.yaml", b"name: eve\n")?;
        write_file(a.user.host(), "/home/eve/project/file", b"hers")?;
        a.user.program("chmod").args(["-R", "go=", "/home/second"]).run(BOUND)?.success()?;
        share(a, b)?;
        second.says("p2p start", &["node eve started"])?;
        second.says("workspace create /home/eve/project", &[])?;
        second.says("workspace share project --open", &[])?;
        let both = || Ok(b.document("workspace list --remote")?["items"].as_array().map(Vec::len) == Some(2));
        wait::until_true("both to be offered", BOUND, both)?;
        for line in ["mount project", "workspace clone project", "run project -- true"] {
            b.ends(line, 3, &["`project` is the name of several", "ada/project", "eve/project", "hint: "])?;
        }
        b.says("mount eve/project", &["/peers/eve/project"])?;
        write_file(b.user.host(), "/home/own/project/file", b"his")?;
        b.says("workspace create /home/own/project", &[])?;
        b.ends("run project -- true", 3, &["/home/own/project", "/root/twinshare/peers/eve/project"])?;
        b.says("run eve/project -- cat file", &["hers"])?;
        b.says("run /home/own/project -- cat file", &["his"])?;
        // The two commands that end something know which of the two is meant.
        b.says("unmount project", &["/root/twinshare/peers/eve/project is unmounted"])?;
        b.says("workspace rm project --yes", &["/home/own/project"])?;
        second.says("p2p stop", &["node stopped"]).map(drop)
    })
    .map(drop)
}

/// A peer that has gone: refused at once or within its deadline, and Ctrl-C is answered at any moment.
#[test]
fn a_peer_that_has_gone_is_told_and_ctrl_c_is_answered() -> Result<()> {
    with_two(|a, b, link| {
        share(a, b)?;
        b.says("mount ada/project --when-gone wait", &[])?;
        link.black_hole(true)?;
        // Nothing of the file is here, so the plan waits for the peer, for ever by the mount's own rule.
        let run = b.user.twinshare(&["run", "ada/project", "--", "true"]).start()?;
        ensure!(!run.ended_within(Duration::from_secs(1))?, "{}", run.said());
        run.signal(Signal::INT)?;
        let ended = run.wait(Duration::from_secs(3))?;
        ensure!(ended.status.code() == Some(130), "{}", ended.told());

        // Whoever waits is named, with what it waits for.
        let data = "/root/twinshare/peers/ada/project/data";
        let cat = b.user.program("cat").arg(data).start()?;
        let named = || {
            let told = b.document("workspace status ada/project")?;
            let reading = told["reading"].as_array().cloned().unwrap_or_default();
            Ok(reading.iter().any(|read| read["path"] == data && read["program"]["name"] == "cat"))
        };
        wait::until_true("the reader to be named", BOUND, named)?;
        b.says("workspace status ada/project", &["reading now    data (cat, pid "])?;
        b.says(&format!("why {data}"), &["nothing yet", "reading now    cat (pid "])?;
        cat.signal(Signal::TERM)?;
        cat.wait(Duration::from_secs(3))?;
        wait::until_true("it to be gone", BOUND, || named().map(|is_named| !is_named))?;

        let mount = b.user.twinshare(&["mount", "ada/project", "/home/second"]).start()?;
        ensure!(!mount.ended_within(Duration::from_millis(300))?, "{}", mount.said());
        mount.signal(Signal::INT)?;
        let ended = mount.wait(Duration::from_secs(10))?;
        ensure!(ended.status.code() == Some(130), "{}", ended.told());

        b.ends("workspace clone ada/project", 5, &["error: ", "hint: "])
    })
    .map(drop)
}
