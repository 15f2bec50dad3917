//! A clone that is changed by programs, against a plain copy that the same programs change in the same way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use twinshare_tests::work::{MAKE, TELL, WORK};

use super::served::{Place, Who};

fn shell(place: &Place, at: &Path, script: &str) -> Result<String> {
    // Not before it is the user who may enter it.
    let entered = format!("cd \"$0\" || exit\n{script}");
    let output = place.command("/bin/sh").args(["-c", &entered]).arg(at).output()?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "in {}: {error}\n{out}", at.display());
    Ok(out.into_owned())
}

#[test]
fn programs_work_in_a_clone_as_in_a_directory() -> Result<()> {
    Who::all().iter().try_for_each(|who| check(*who).with_context(|| format!("served by {who:?}")))
}

fn check(who: Who) -> Result<()> {
    let place = Place::new(who)?;
    let (source, at) = (place.source(), place.mount_point());
    shell(&place, &source, MAKE)?;
    let plain = place.plain();
    let copied = Command::new("cp").arg("-a").args([&source, &plain]).status()?;
    ensure!(copied.success());
    let before = shell(&place, &source, "find . -printf '%P %y %m %s %T@\n' | sort")?;
    {
        let _served = place.serve_clone("wait=20s")?;
        shell(&place, &plain, WORK)?;
        shell(&place, &at, WORK)?;
        same(&place, &plain, &at)?;
    }
    // What was changed lies beneath the mount point, and is there again.
    let served = place.serve_clone("wait=20s")?;
    same(&place, &plain, &at)?;
    shell(&place, &at, "echo again >> src/f1; rm -r moved")?;
    shell(&place, &plain, "echo again >> src/f1; rm -r moved")?;
    drop(served);
    let mut served = place.serve_clone("wait=20s")?;
    same(&place, &plain, &at)?;
    // Killed at any moment: what was synced is there.
    shell(&place, &at, "echo synced > src/f20; mv src/f21 moved; sync src/f20 .")?;
    shell(&place, &plain, "echo synced > src/f20; mv src/f21 moved")?;
    served.kill()?;
    // By whoever mounted it, who alone may look at it.
    ensure!(place.command(place.server()?).arg("sweep").arg(&at).status()?.success());
    drop(served);
    let _served = place.serve_clone("wait=20s")?;
    same(&place, &plain, &at)?;
    // The origin is as it was.
    ensure!(before == shell(&place, &source, "find . -printf '%P %y %m %s %T@\n' | sort")?);
    shell(&place, &source, "chmod u+w closed")?;
    std::fs::set_permissions(plain.join("closed"), std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn same(place: &Place, plain: &Path, at: &Path) -> Result<()> {
    let (expected, found) = (shell(place, plain, TELL)?, shell(place, at, TELL)?);
    let (mut expected_lines, mut found_lines) = (expected.lines(), found.lines());
    loop {
        match (expected_lines.next(), found_lines.next()) {
            (None, None) => return Ok(()),
            (expected, found) => ensure!(expected == found, "expected {expected:?}, found {found:?}"),
        }
    }
}
