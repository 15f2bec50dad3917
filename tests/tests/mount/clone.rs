//! A clone that is changed by programs, against a plain copy that the same programs change in the same way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use twinshare_tests::work::{MAKE, TELL, WORK};

use super::served::{Place, Who, is_root};

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

/// A workspace in which everything that is made of something else has been made: a repository with a worktree and a
/// submodule, compiled Python, and what `make` makes.
const MADE: &str = r#"
set -e
export GIT_CONFIG_GLOBAL=/dev/null
g() { git -c user.name=a -c user.email=a@b -c protocol.file.allow=always "$@"; }
mkdir -p ../module package data && (cd ../module && g init -q && head -c 1M /dev/urandom > big && g add . && g commit -qm big)
g init -q . && for i in $(seq 30); do head -c 400K /dev/urandom > data/$i; done
echo 'from . import other' > package/__init__.py && echo 'x = 1' > package/other.py
printf 'all: copy\ncopy: data/1\n\tcp data/1 copy\n' > Makefile
printf 'copy\n__pycache__/\n/beside/\n' > .gitignore
g submodule --quiet add "$PWD/../module" module && g add . && g commit -qm all && g worktree add -q beside
find . -path ./.git -prune -o -type f -exec touch -d '2 hours ago' {} +
/usr/bin/python3 -m compileall -q package && make -s
find . -type f \( -name '*.pyc' -o -name copy \) -exec touch -d '1 hour ago' {} +
touch -d '2 hours ago' package/*.py
for d in . module beside; do git -C $d status --porcelain > /dev/null && test -z "$(git -C $d status --porcelain)"; done
"#;

/// Asks everything that could think it has to make something anew.
const STATUS: &str = r#"
set -e
for d in . module beside; do test -z "$(git -C $d -c safe.directory='*' status --porcelain)" || { git -C $d status; exit 1; }; done
"#;
const BUILD: &str = r#"
set -e
touch ../before
make -q all
/usr/bin/python3 -c 'import package; assert package.other.x == 1'
test -z "$(find . -path ./.git -prune -o -path ./module/.git -prune -o -newer ../before -type f -print)"
"#;

#[test]
fn nothing_is_read_or_made_again_in_a_fresh_clone() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let (source, at) = (place.source(), place.mount_point());
    shell(&place, &source, MADE)?;
    let mut served = place.serve_clone("wait=20s")?;
    // Where it was made, as in a run: a worktree says where its repository is. Its origin is read as it lies.
    let there = |script: &str| {
        let bind = "mount --bind \"$1\" \"$0\" && cd \"$0\" && exec /bin/sh -c \"$2\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-ec", bind]).args([&source, &at]);
        let output = command.arg(script).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    };
    if is_root() {
        there(STATUS)?;
        // The files that git tracks are 14 MiB.
        let fetched = served.fetched()?;
        ensure!(fetched < 1 << 20, "git has read {fetched} bytes");
        there(BUILD)?;
    } else {
        shell(&place, &at, "test -z \"$(git status --porcelain --ignore-submodules)\"")?;
        shell(&place, &at, BUILD)?;
    }
    let fetched = served.fetched()?;
    ensure!(fetched < 2 << 20, "{fetched} bytes were read");
    Ok(())
}
