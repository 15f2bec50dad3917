//! Somebody works in a clone while it fills, whatever happens to the cable and to the processes, and keeps all of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use twinshare_tests::{
    host::{Host, ORDINARY},
    link::Rate,
    node::{User, Who},
    pair::{BOUND, PROJECT, Pair, pair},
    random::Random,
    wait,
    work::{self, MAKE, TELL, WORK},
};

/// A second copy of the workspace, in which the same is done.
const PLAIN: &str = "/home/plain";

/// Runs a script in a directory.
fn shell(user: &User<'_>, at: &str, script: &str) -> Result<String> {
    let entered = format!("cd \"$0\" || exit\n{script}");
    user.program("/bin/sh").args(["-c", &entered, at]).run(BOUND)?.success()
}

/// A workspace for [`WORK`], with more that takes a few seconds.
fn project(host: &Host) -> Result<()> {
    let script = format!("{MAKE}\nfor i in $(seq 0 11); do head -c 1M /dev/urandom > data/more-$i; done");
    host.program("/bin/sh").args(["-ec", &script]).dir(PROJECT).run(BOUND)?.success().map(drop)
}

fn same(pair: &Pair<'_>) -> Result<()> {
    work::same(&shell(&pair.ada, PLAIN, TELL)?, &shell(&pair.ben, &pair.clone, TELL)?)
}

/// Kills the clone's process, and waits until another serves it.
fn killed(pair: &Pair<'_>) -> Result<()> {
    let pid = pair.process_from_outside()?.context("it has no process")?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    served_again(pair, pid)
}

/// Another process than `before` serves the clone.
fn served_again(pair: &Pair<'_>, before: Pid) -> Result<()> {
    wait::until_true("the clone to be served again", BOUND, || {
        let now = pair.process_from_outside()?;
        let look = pair.ben.program("stat").arg(format!("{}/data", pair.clone)).run(BOUND)?;
        Ok(now.is_some_and(|now| now != before) && look.status.success() && pair.is_mounted()?)
    })
}

#[test]
fn a_clone_is_worked_in_before_it_is_complete_and_keeps_it() -> Result<()> {
    for who in [Who::Root, Who::Ordinary] {
        pair(Rate::Mbit(20), who, project, |pair| {
            pair.ada.program("cp").args(["-a", PROJECT, PLAIN]).run(BOUND)?.success()?;
            pair.make_clone(&[])?;
            ensure!(pair.status()?["progress"]["changed"] == false, "{}", pair.status()?);
            shell(&pair.ben, &pair.clone, WORK)?;
            ensure!(pair.stage()? == "hydrating", "it was complete before anybody worked in it");
            ensure!(pair.status()?["progress"]["changed"] == true, "{}", pair.status()?);
            shell(&pair.ada, PLAIN, WORK)?;

            // The cable is pulled: what is here can be used and changed, and so can every name.
            shell(&pair.ben, &pair.clone, "cat src/f20")?;
            pair.link.set_up(false)?;
            let alone = "set -e; mkdir alone; mv data/more-0 alone/; rm data/more-1; echo x >> src/f20; \
                         chmod 700 alone/more-0; ln -s x alone/link; mv src/f22 src/f23; cat src/f20; \
                         head -c 131072 /dev/zero | dd of=data/more-2 bs=65536 seek=3 iflag=fullblock conv=notrunc status=none";
            shell(&pair.ben, &pair.clone, alone)?;
            shell(&pair.ada, PLAIN, alone)?;
            let asked = pair.ben.twinshare(&["workspace", "rm", &pair.clone]).run(BOUND)?;
            let asked = asked.failure()?;
            ensure!(asked.contains("--yes"), "{asked}");
            pair.link.set_up(true)?;

            // Its process dies, and its node.
            for round in 0..4 {
                let script = format!("mkdir round-{round}; echo {round} > src/f3{round}; mv src/f3{round} round-{round}/; sync .");
                shell(&pair.ben, &pair.clone, &script)?;
                shell(&pair.ada, PLAIN, &script)?;
                if round < 2 {
                    killed(pair)?;
                    continue;
                }
                // And its node, first or last.
                let pid = pair.process_from_outside()?.context("it has no process")?;
                if round == 2 {
                    pair.ben_node.take().context("no node")?.kill();
                }
                rustix::process::kill_process(pid, Signal::KILL)?;
                pair.ben_node.take().into_iter().for_each(|mut node| node.kill());
                pair.ben_node = Some(pair.ben.foreground()?);
                served_again(pair, pid)?;
            }
            same(pair)?;
            pair.settles(BOUND)?;
            ensure!(!pair.is_mounted()?, "it is still mounted");
            same(pair)
        })
        .with_context(|| format!("as {who:?}"))?;
    }
    Ok(())
}

/// Appends to a journal, makes files under temporary names and renames them, and says what is durable, until it is told an error.
const SCRIBE: &str = r#"
import os, sys
os.chdir(sys.argv[1])
first = int(sys.argv[2])
place = os.open("data", os.O_RDONLY)
journal = os.open("data/journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
large = os.open("data/large", os.O_RDWR)
try:
    for number in range(first, first + 100000):
        os.write(journal, b"%08d\n" % number)
        os.fsync(journal)
        os.pwrite(large, b"%08d" % number, 70000 + 8 * (number % 300000))
        os.fdatasync(large)
        with open("data/half", "w") as file:
            file.write(str(number)); file.flush(); os.fsync(file.fileno())
        os.rename("data/half", "data/kept-%d" % (number % 50))
        os.fsync(place)
        print(number, flush=True)
except OSError as error:
    print(error, file=sys.stderr)
"#;

#[test]
fn what_was_synced_outlives_every_death() -> Result<()> {
    for who in [Who::Root, Who::Ordinary] {
        pair(Rate::Mbit(40), who, project, |pair| {
            pair.make_clone(&["--no-settle"])?;
            let (mut random, mut next) = (Random::new(11), 0);
            for round in 0..5 {
                let scribe = pair.ben.program("/usr/bin/python3");
                let scribe = scribe.args(["-c", SCRIBE, &pair.clone, &next.to_string()]).start()?;
                let said = || Ok::<_, anyhow::Error>(String::from_utf8(scribe.stdout()?)?.lines().count());
                let enough = 1 + random.below(40);
                wait::until_true("something to be written", BOUND, || {
                    Ok(said()? >= enough || scribe.ended_within(Duration::ZERO)?)
                })?;
                killed(pair)?;
                let ended = scribe.wait(BOUND)?;
                let last = ended.success()?.lines().last().context("it wrote nothing")?.parse::<u64>()?;
                check_kept(pair, last).with_context(|| format!("round {round}, up to {last}"))?;
                next = last + 1;
            }
            let said = pair.ben.run(&["workspace", "wait", &pair.clone, "--timeout", "100"])?;
            ensure!(said.contains("complete"), "{said}");
            let sums = "cd data && sha256sum more-* sparse";
            ensure!(shell(&pair.ada, PROJECT, sums)? == shell(&pair.ben, &pair.clone, sums)?);
            Ok(())
        })
        .with_context(|| format!("as {who:?}"))?;
    }
    Ok(())
}

/// Everything that was said to be durable is there.
fn check_kept(pair: &Pair<'_>, last: u64) -> Result<()> {
    let read =
        |name: &str| pair.ben.program("cat").arg(format!("{}/{name}", pair.clone)).run(BOUND)?.success();
    let journal = read("data/journal")?;
    let written = journal.lines().filter_map(|line| line.parse::<u64>().ok()).collect::<Vec<_>>();
    ensure!((0..=last).all(|number| written.contains(&number)), "the journal ends {:?}", written.last());
    let mut newest: BTreeMap<_, _> = (0..=last).map(|number| (number % 50, number)).collect();
    for line in shell(&pair.ben, &pair.clone, "cd data && grep . kept-*")?.lines() {
        let (slot, kept) =
            line.trim_start_matches("kept-").split_once(':').context("a line without a name")?;
        let (slot, kept) = (slot.parse::<u64>()?, kept.parse::<u64>()?);
        // The one under way when it died may have been finished.
        let wanted = newest.remove(&slot);
        ensure!(kept == last + 1 || wanted == Some(kept), "kept-{slot} has {kept} in place of {wanted:?}");
    }
    ensure!(newest.is_empty(), "{newest:?} are not there");
    let at = 70_000 + 8 * last;
    let script = format!("tail -c +{} {}/data/large | head -c 8", at + 1, pair.clone);
    let found = pair.ben.program("/bin/sh").args(["-c", &script]).run(BOUND)?.success()?;
    ensure!(found == format!("{last:08}"), "large has {found}");
    Ok(())
}

#[test]
fn others_reach_roots_clone_as_its_modes_say() -> Result<()> {
    let make = |host: &Host| {
        let script = "echo open > open; echo shut > shut; chmod 600 shut; mkdir drop; chmod 1777 drop";
        host.program("/bin/sh").args(["-ec", script]).dir(PROJECT).run(BOUND)?.success().map(drop)
    };
    pair(Rate::Mbit(40), Who::Root, make, |pair| {
        pair.clone = "/srv/clone".into();
        pair.make_clone(&["--no-settle"])?;
        let other = User::new(pair.ben.host(), Who::Ordinary);
        let expected = format!("open\nrefused\n{}\nkept\n", ORDINARY.0);
        let script = "cat open; cat shut 2> /dev/null || echo refused; echo mine > drop/mine; stat -c %U drop/mine; \
                      rm -f open 2> /dev/null || echo kept";
        let said = shell(&other, &pair.clone, script)?;
        ensure!(said == expected, "{said}");
        pair.ben.run(&["workspace", "wait", &pair.clone])?;
        pair.ben.run(&["workspace", "settle", &pair.clone])?;
        let said = shell(&other, &pair.clone, &script.replace("> drop/mine;", ">> drop/mine;"))?;
        ensure!(said == expected, "{said}");
        Ok(())
    })
}
