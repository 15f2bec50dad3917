//! A clone that is changed by programs, against a plain copy that the same programs change in the same way.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use twinshare_tests::work::{self, MAKE, TELL, WORK};

use super::served::{Place, Who, is_root};

/// What is done to files beside their content and names, and what it changes of them. Run in the current directory, it
/// says the same wherever attributes are what they should be.
const ATTRIBUTES: &str = r#"
import os, stat, time
root = os.getuid() == 0
uid, gid = (1234, 567) if root else (os.getuid(), os.getgid())

def tell(what, before, after):
    names = ['st_mode', 'st_nlink', 'st_uid', 'st_gid', 'st_size', 'st_mtime_ns', 'st_ctime_ns']
    # How long a directory is, and how many names it has, tells nothing.
    names = [n for n in names if not stat.S_ISDIR(after.st_mode) or n not in ('st_nlink', 'st_size')]
    changed = [n for n in names if getattr(before, n) != getattr(after, n)]
    later = after.st_ctime_ns > before.st_ctime_ns and abs(after.st_ctime_ns / 1e9 - time.time()) < 60
    print(what, changed, 'now' if later else 'EARLIER')

def does(what, path, work, then=None):
    before = os.lstat(path); time.sleep(0.012); work(); tell(what, before, os.lstat(then or path))

def handled(what, fd, work):
    before = os.fstat(fd); time.sleep(0.012); work(); tell(what, before, os.fstat(fd))

# By name: files and a directory of the origin, never looked into and partly here, and what was made here.
open('src/f31', 'r+').write('changed'); open('made', 'w').write('here'); os.mkdir('made-directory')
for f in ['src/f30', 'src/f31', 'made', 'data', 'made-directory']:
    does('setxattr', f, lambda: os.setxattr(f, 'user.a', b'1'))
    does('removexattr', f, lambda: os.removexattr(f, 'user.a'))
    does('chown', f, lambda: os.chown(f, uid, gid)); does('chown back', f, lambda: os.chown(f, os.getuid(), os.getgid()))
    does('chmod', f, lambda: os.chmod(f, 0o750))
    does('utime', f, lambda: os.utime(f, ns=(7_000_000_001, os.stat(f).st_mtime_ns)))
    print(os.stat(f).st_atime_ns)
    does('rename', f, lambda: os.rename(f, f + '-away'), f + '-away'); does('and back', f + '-away', lambda: os.rename(f + '-away', f), f)
    print(os.stat(f).st_atime_ns)
for f in ['src/f30', 'src/f31', 'made', 'data/sparse']:
    does('link', f, lambda: os.link(f, 'linked')); does('unlink', f, lambda: os.unlink('linked'))
    open('other', 'w').close(); os.link(f, 'linked')
    does('rename over', f, lambda: os.rename('other', 'linked')); os.unlink('linked')
# Made for somebody who may not read it, and perhaps not open it again: whoever made it has it open.
for mode in [0o200, 0o100, 0, 0o400, 0o111]:
    fd = os.open('strict', os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode); print(os.write(fd, b'x' * 70_000))
    handled('write', fd, lambda: os.pwrite(fd, b'zz', 1)); os.fsync(fd); print(oct(os.fstat(fd).st_mode))
    os.fchmod(fd, 0o600); print(open('strict').read(3)); os.fchmod(fd, 0); print(os.write(fd, b'more')); os.close(fd)
    print(os.stat('strict').st_size); os.unlink('strict')
os.symlink('src', 'symlink'); does('lchown', 'symlink', lambda: os.chown('symlink', uid, gid, follow_symlinks=False))

# Without a name: a file that was never read, one partly here, one with several names, one made here, closed ones.
open('src/f32', 'r+').write('partly'); open('made2', 'w').write('x')
os.link('src/f34', 'linked'); open('shut', 'w').write('x'); os.chmod('shut', 0o400)
for f in ['src/f33', 'src/f32', 'src/f34', 'made2', 'data/sparse', 'shut']:
    if f != 'shut': os.setxattr(f, 'user.kept', b'value')
    fd = os.open(f, os.O_RDONLY if f == 'shut' else os.O_RDWR)
    if f == 'src/f34': os.unlink('linked')
    handled('unlink', fd, lambda: os.unlink(f))
    handled('fchmod', fd, lambda: os.fchmod(fd, 0o640)); handled('fchown', fd, lambda: os.fchown(fd, uid, gid))
    handled('fsetxattr', fd, lambda: os.setxattr(fd, 'user.new', b'2'))
    print(sorted(os.listxattr(fd)), os.getxattr(fd, 'user.new'))
    handled('fremovexattr', fd, lambda: os.removexattr(fd, 'user.new')); print(os.listxattr(fd))
    try: os.getxattr(fd, 'user.new')
    except OSError as e: print(e.errno)
    handled('futimens', fd, lambda: os.utime(fd, ns=(3, 4))); s = os.fstat(fd); print(s.st_atime_ns, s.st_mtime_ns)
    if f != 'shut':
        handled('write', fd, lambda: os.pwrite(fd, b'zz', 1)); print(os.pread(fd, 5, 0))
        handled('truncate', fd, lambda: os.ftruncate(fd, 70_000)); handled('fchmod', fd, lambda: os.fchmod(fd, 0o600))
        handled('to nothing', fd, lambda: os.ftruncate(fd, 0)); handled('fchmod', fd, lambda: os.fchmod(fd, 0o4755))
        os.fsync(fd)
    s = os.fstat(fd); print(oct(s.st_mode), s.st_nlink, s.st_size); os.close(fd)
os.mkdir('gone'); d = os.open('gone', os.O_RDONLY); os.rmdir('gone'); os.fchmod(d, 0o711); os.fchown(d, uid, gid)
s = os.fstat(d); print(oct(s.st_mode), s.st_uid == uid, s.st_nlink)
os.utime('src/f36', ns=(5_000_000_006, 4)); os.utime('src', ns=(6, 7))
"#;

/// The times that are to be told again after another process has taken over.
const TIMES: &str =
    "stat -c '%n %.9X %.9Y' src/f36 && stat -c '%n %.9X' src/f30 made && stat -c '%n %.9Y' src";

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

#[test]
fn attributes_change_as_in_a_directory() -> Result<()> {
    Who::all().iter().try_for_each(|who| check_attributes(*who).with_context(|| format!("served by {who:?}")))
}

fn check_attributes(who: Who) -> Result<()> {
    let place = Place::new(who)?;
    let (source, at, plain) = (place.source(), place.mount_point(), place.plain());
    shell(&place, &source, MAKE)?;
    let copied = Command::new("cp").arg("-a").args([&source, &plain]).status()?;
    ensure!(copied.success());
    let work = format!("python3 - <<'P'\n{ATTRIBUTES}P\n");
    {
        let _served = place.serve_clone("wait=20s")?;
        lines_agree(&shell(&place, &plain, &work)?, &shell(&place, &at, &work)?)?;
        lines_agree(&shell(&place, &plain, TIMES)?, &shell(&place, &at, TIMES)?)?;
    }
    let _served = place.serve_clone("wait=20s")?;
    lines_agree(&shell(&place, &plain, TIMES)?, &shell(&place, &at, TIMES)?)
}

fn same(place: &Place, plain: &Path, at: &Path) -> Result<()> {
    work::same(&shell(place, plain, TELL)?, &shell(place, at, TELL)?)
}

fn lines_agree(expected: &str, found: &str) -> Result<()> {
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
