//! The harness itself: what a host hides, what a link carries, and that nothing outlives the test process.

use std::{
    env,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use twinshare_tests::{
    host::{Disk, Host, write_file},
    link::{Link, Rate},
    program::Ended,
    wait,
};

const BOUND: Duration = Duration::from_secs(30);

#[test]
fn each_host_has_its_own_files_name_and_processes() -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Tmpfs)?);
    write_file(&ada, "/home/ada/secret", b"hers")?;
    ensure!(ada.program("cat").arg("/home/ada/secret").run(BOUND)?.success()? == "hers");
    ben.program("cat").arg("/home/ada/secret").run(BOUND)?.failure()?;
    ensure!(ada.program("hostname").run(BOUND)?.success()?.trim() == "ada");
    ensure!(
        ada.program("stat").args(["-f", "-c", "%T", "/home"]).run(BOUND)?.success()?.trim() == "ext2/ext3"
    );
    let sleeper = ada.program("sleep").arg("1000").start()?;
    ensure!(wait::until_true("sleep to be seen", BOUND, || ada.runs("sleep")).is_ok() && !ben.runs("sleep")?);
    drop(sleeper);
    wait::until_true("sleep to be gone", BOUND, || Ok(!ada.runs("sleep")?))
}

#[test]
fn the_ordinary_user_has_a_home_and_fuse_and_no_capability() -> Result<()> {
    let host = Host::new("ada", Disk::Tmpfs)?;
    let script = "id -un; cd; pwd; touch mine && : <>/dev/fuse && grep CapEff /proc/self/status";
    let said = host.program("sh").args(["-c", script]).ordinary().run(BOUND)?.success()?;
    ensure!(
        said.split_whitespace().collect::<Vec<_>>()
            == ["ordinary", "/home/ordinary", "CapEff:", "0000000000000000"]
    );
    host.program("touch").arg("/root/x").ordinary().run(BOUND)?.failure()?;
    Ok(())
}

#[test]
fn a_command_is_ended_at_its_deadline_with_what_it_said() -> Result<()> {
    let host = Host::new("ada", Disk::Tmpfs)?;
    let slow = host.program("sh").args(["-c", "echo begun; exec sleep 1000"]).run(Duration::from_millis(300));
    let error = slow.err().context("it should not have ended")?.to_string();
    ensure!(error.contains("still running after 300ms") && error.contains("begun"), "{error}");
    ensure!(!host.runs("sleep")?);
    Ok(())
}

#[test]
fn a_link_carries_counts_swallows_and_is_cut() -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Tmpfs)?, Host::new("ben", Disk::Tmpfs)?);
    let link = Link::between(&ada, &ben, 1, Rate::Mbit(200))?;
    let ping = || ben.program("ping").args(["-c1", "-W1", link.first_address()]).run(BOUND);
    ping()?.success()?;
    ensure!(link.bytes_into_first()? >= 98, "{}", link.bytes_into_first()?);
    link.black_hole(true)?;
    ping()?.failure()?;
    link.black_hole(false)?;
    wait::until_true("the link to recover", BOUND, || Ok(ping()?.status.success()))?;
    link.set_up(false)?;
    ping()?.failure()?;
    link.set_up(true)?;
    wait::until_true("the link to come back", BOUND, || Ok(ping()?.status.success()))
}

/// Reads one datagram sent to a multicast group by the other host.
#[test]
fn multicast_crosses_a_link() -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Tmpfs)?, Host::new("ben", Disk::Tmpfs)?);
    let link = Link::between(&ada, &ben, 1, Rate::Unlimited)?;
    let group = Ipv4Addr::new(239, 255, 77, 77);
    let listen = format!(
        "import socket,struct\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('',37777))\n\
         s.setsockopt(0,socket.IP_ADD_MEMBERSHIP,struct.pack('4s4s',socket.inet_aton('{group}'),socket.inet_aton('{}')))\n\
         print(s.recvfrom(99)[1][0],flush=True)",
        link.second_address()
    );
    let listener = ben.program("/usr/bin/python3").args(["-c", &listen]).start()?;
    let send = format!("import socket\nsocket.socket(2,2).sendto(b'hello',('{group}',37777))");
    wait::until_true("the datagram", BOUND, || {
        ada.program("/usr/bin/python3").args(["-c", &send]).run(BOUND)?.success()?;
        listener.ended_within(Duration::from_millis(50))
    })?;
    ensure!(listener.wait(BOUND)?.success()?.trim() == link.first_address());
    Ok(())
}

const VICTIM: &str = "TWINSHARE_HARNESS_VICTIM";

/// Not a test by itself: the process that `nothing_outlives_a_killed_test_process` kills.
#[test]
fn victim() -> Result<()> {
    let Ok(mark) = env::var(VICTIM) else { return Ok(()) };
    let host = |name: &str| Host::new(&format!("{name}-{mark}"), Disk::Ext4);
    let (ada, ben) = (host("ada")?, host("ben")?);
    let _link = Link::between(&ada, &ben, 1, Rate::Unlimited)?;
    let orphan = format!("setsid sleep 31337.{mark} & exit 0");
    let _orphan = ada.program("sh").args(["-c", &orphan]).run(BOUND)?.success()?;
    let _child = ben.program("sleep").arg(format!("31337.{mark}")).start()?;
    // Holds everything until it is killed.
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_outlives_a_killed_test_process() -> Result<()> {
    // Of this process alone: others may run the same test.
    let mark = std::process::id().to_string();
    let sleeper = format!("sleep 31337.{mark}");
    let loops = || {
        Ok::<_, anyhow::Error>(String::from_utf8(
            Command::new("losetup").arg("-nlO").arg("NAME,BACK-FILE").output()?.stdout,
        )?)
    };
    let survivors = || Ok::<_, anyhow::Error>(Command::new("pgrep").args(["-fx", &sleeper]).output()?.stdout);
    let disks = |text: String| text.lines().filter(|line| line.ends_with(&format!("-{mark}"))).count();
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", "victim"])
        .env(VICTIM, &mark)
        .stdout(Stdio::null())
        .spawn()?;
    let both = || Ok(survivors()?.iter().filter(|byte| **byte == b'\n').count() == 2);
    let begun = wait::until_true("the victim's processes", BOUND, both);
    let had_disks = loops().map(disks);
    victim.kill()?;
    victim.wait()?;
    begun?;
    ensure!(had_disks? == 2, "the victim's disks cannot be told from others");
    wait::until_true("its processes to die", BOUND, || Ok(survivors()?.is_empty()))?;
    wait::until_true("its loop devices to go", BOUND, || Ok(disks(loops()?) == 0))
}

/// Keeps `Ended` honest: a signal is no failure of the command itself.
#[test]
fn a_killed_command_is_neither_success_nor_failure() -> Result<()> {
    let host = Host::new("ada", Disk::Tmpfs)?;
    let ended = || host.program("sh").args(["-c", "kill -9 $$"]).run(BOUND);
    ensure!(ended().and_then(Ended::success).is_err() && ended().and_then(Ended::failure).is_err());
    Ok(())
}
