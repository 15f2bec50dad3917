//! What a clone does when its disk is full, and when its peer comes back elsewhere.

use std::fs;

use anyhow::{Result, ensure};
use twinshare_tests::{
    host::Host,
    link::Rate,
    node::Who,
    pair::{BOUND, PROJECT, Pair, pair},
    random::noise,
    wait,
};

/// Files of the workspace, of a MiB each.
const FILES: u64 = 24;

fn files(host: &Host) -> Result<()> {
    (0..FILES).try_for_each(|number| {
        Ok(fs::write(host.path(PROJECT).join(format!("file-{number}")), noise(1 << 20, number))?)
    })
}

fn shell(pair: &Pair<'_>, script: &str) -> Result<String> {
    let entered = format!("cd \"$0\" || exit\n{script}");
    pair.ben.program("/bin/sh").args(["-c", &entered, &pair.clone]).run(BOUND)?.success()
}

fn sum_at_origin(pair: &Pair<'_>, names: &str) -> Result<String> {
    let script = format!("cd {PROJECT} && sha256sum {names}");
    pair.ada.program("/bin/sh").args(["-c", &script]).run(BOUND)?.success()
}

fn comes(pair: &Pair<'_>) -> Result<()> {
    wait::until_true("some of it to be here", BOUND, || {
        Ok(pair.status()?["progress"]["bytes_resident"].as_u64().unwrap_or(0) > 2 << 20)
    })
}

#[test]
fn on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_room() -> Result<()> {
    pair(Rate::Mbit(20), Who::Ordinary, files, |pair| {
        pair.make_clone(&[])?;
        shell(pair, "echo mine > note; sync note; sha256sum file-0")?;
        comes(pair)?;
        // Less than is left free for its user.
        let fill = "fallocate -l $(($(df --output=avail -B1 /home | tail -n 1) - (32 << 20))) /home/balloon";
        pair.ben.host().program("/bin/sh").args(["-c", fill]).run(BOUND)?.success()?;
        wait::until_true("the background to stop", BOUND, || {
            let status = pair.status()?;
            Ok(status["settling"]["detail"].as_str().is_some_and(|why| why.contains("almost full")))
        })?;
        ensure!(pair.stage()? == "hydrating", "it is complete");

        let refused = shell(pair, "exec 2>&1; dd if=/dev/zero of=large bs=64K count=1000 || echo refused")?;
        ensure!(refused.contains("No space left on device") && refused.ends_with("refused\n"), "{refused}");
        let everything = format!("sha256sum {}", names(0..FILES));
        ensure!(shell(pair, &everything)? == sum_at_origin(pair, &names(0..FILES))?);
        let refused = shell(pair, "exec 2>&1; echo more >> note && sync note || echo refused; cat note")?;
        ensure!(refused.starts_with("mine\n") || refused.contains("No space left"), "{refused}");
        shell(pair, "mkdir -p x 2> /dev/null; mv file-1 renamed && rm file-2")?;

        pair.ben.host().program("rm").arg("/home/balloon").run(BOUND)?.success()?;
        shell(pair, "rm large")?;
        pair.settles(BOUND)?;
        let left = names(3..FILES);
        ensure!(shell(pair, &format!("sha256sum {left}"))? == sum_at_origin(pair, &left)?);
        ensure!(shell(pair, "head -n 1 note; test ! -e file-2; sha256sum < renamed")?.starts_with("mine\n"));
        ensure!(
            shell(pair, "sha256sum < renamed")?.split(' ').next()
                == sum_at_origin(pair, "file-1")?.split(' ').next()
        );
        Ok(())
    })
}

fn names(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("file-{number}")).collect::<Vec<_>>().join(" ")
}

/// Ada's machine is at another address when it is back.
const MOVE: &str = "set -e; dev=$(ip -o -4 addr show | awk '/10\\.91\\.1\\.1\\//{print $2}'); \
     ip addr del 10.91.1.1/24 dev $dev; ip addr add 10.91.1.77/24 dev $dev; \
     ip route replace 224.0.0.0/4 dev $dev";

#[test]
fn it_goes_on_when_its_peers_machine_has_been_started_again_elsewhere() -> Result<()> {
    pair(Rate::Mbit(20), Who::Ordinary, files, |pair| {
        pair.make_clone(&[])?;
        comes(pair)?;
        shell(pair, "echo before > mine")?;
        pair.ada_node.take().into_iter().for_each(|mut node| node.kill());
        pair.ada.host().program("/bin/sh").args(["-c", MOVE]).run(BOUND)?.success()?;
        wait::until_true("the peer to be missed", BOUND, || {
            Ok(pair.status()?["progress"]["availability"] == "gone")
        })?;
        shell(pair, "echo meanwhile >> mine")?;
        pair.ada_node = Some(pair.ada.foreground()?);
        pair.settles(BOUND)?;
        ensure!(shell(pair, "cat mine")? == "before\nmeanwhile\n");
        let all = names(0..FILES);
        ensure!(shell(pair, &format!("sha256sum {all}"))? == sum_at_origin(pair, &all)?);
        Ok(())
    })
}
