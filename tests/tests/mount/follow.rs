//! Mounts that go on to what their origin has become, while programs use them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::process::{Command, Stdio};

use super::*;

/// What becomes of a tree in one step.
type Change = (&'static str, fn(&Path) -> Result<()>);

const CHANGES: [Change; 12] = [
    ("edit", |at| Ok(fs::write(at.join("d/edited"), "another content")?)),
    ("edit in place", |at| {
        Ok(File::options().write(true).open(at.join("d/edited"))?.write_all_at(b"AN", 0)?)
    }),
    ("truncate", |at| Ok(File::options().write(true).open(at.join("large"))?.set_len(70_000)?)),
    ("grow", |at| Ok(File::options().write(true).open(at.join("large"))?.set_len(700_000)?)),
    ("delete", |at| Ok(fs::remove_file(at.join("d/deleted"))?)),
    ("create", |at| Ok(fs::write(at.join("d/created"), "new")?)),
    ("create where one was deleted", |at| Ok(fs::write(at.join("d/deleted"), "back again")?)),
    ("rename a directory", |at| Ok(fs::rename(at.join("tree"), at.join("moved"))?)),
    ("a directory in its place", |at| {
        fs::create_dir(at.join("tree"))?;
        Ok(fs::write(at.join("tree/leaf"), "another leaf")?)
    }),
    ("a symlink in place of a file", |at| {
        fs::remove_file(at.join("d/kind"))?;
        Ok(symlink("edited", at.join("d/kind"))?)
    }),
    ("a directory in place of a symlink", |at| {
        fs::remove_file(at.join("d/kind"))?;
        Ok(fs::create_dir(at.join("d/kind"))?)
    }),
    ("a second name", |at| Ok(fs::hard_link(at.join("d/edited"), at.join("linked"))?)),
];

fn make(at: &Path) -> Result<()> {
    fs::create_dir_all(at.join("d"))?;
    fs::create_dir_all(at.join("tree/deep"))?;
    for (path, text) in [
        ("d/edited", "content"),
        ("d/deleted", "deleted"),
        ("d/kind", "a file"),
        ("tree/leaf", "leaf"),
        ("tree/deep/leaf", "deep leaf"),
        ("same", "the same"),
    ] {
        fs::write(at.join(path), text)?;
    }
    Ok(fs::write(at.join("large"), content(500_000))?)
}

#[test]
fn each_change_is_seen_without_mounting_anew() -> Result<()> {
    for who in Who::all() {
        let place = Place::new(*who)?;
        make(&place.source())?;
        let mut served = place.serve("wait=20s")?;
        let at = place.mount_point();
        let compare = || -> Result<()> {
            match who {
                Who::Myself => tree::compare(&place.source(), &at),
                // Nobody else may look.
                Who::Ordinary => same_to(&place),
            }
        };
        compare()?;
        if *who == Who::Myself {
            ensure!(!at.join("d/created").try_exists()?, "it is known not to exist");
        }
        for (what, change) in CHANGES {
            change(&place.source()).context(what)?;
            served.ask("advance").context(what)?;
            // Twice: as it is told, and as the kernel has kept it.
            compare().context(what)?;
            compare().context(what)?;
        }
    }
    Ok(())
}

/// Compares both as whoever serves: names, kinds, content, sizes, times.
fn same_to(place: &Place) -> Result<()> {
    let sums = |root: &Path| -> Result<Vec<u8>> {
        let script = "cd \"$1\" && find . -printf '%p %y %T@ %l\\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum";
        let output = place.command("sh").args(["-c", script, "sums"]).arg(root).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    };
    let wait = || Ok(sums(&place.source())? == sums(&place.mount_point())?);
    wait::until_true("the mount to show what is there", BOUND, wait)
}

#[test]
fn what_stays_is_not_fetched_again() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    make(&place.source())?;
    let mut served = place.serve("wait=20s")?;
    let at = place.mount_point();
    tree::compare(&place.source(), &at)?;
    fs::write(place.source().join("same"), "not the same")?;
    fs::write(place.source().join("d/created"), "new")?;
    served.ask("advance")?;
    tree::compare(&place.source(), &at)?;
    let fetched = served.fetched()?;
    ensure!(fetched == 15, "{fetched} bytes came for what is new");
    // Not the kernel's cache alone has it.
    served.ask("stall")?;
    fs::write("/proc/sys/vm/drop_caches", "2")
        .or_else(|error| if served::is_root() { Err(error) } else { Ok(()) })?;
    ensure!(fs::read(at.join("large"))? == content(500_000));
    Ok(())
}

#[test]
fn who_has_a_file_open_keeps_the_version_it_was() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    fs::write(place.source().join("read"), content(300_000))?;
    fs::write(place.source().join("unread"), content(300_000))?;
    let mut served = place.serve("wait=20s")?;
    let at = place.mount_point();
    let (read, unread) = (File::open(at.join("read"))?, File::open(at.join("unread"))?);
    ensure!(fs::read(at.join("read"))? == content(300_000));
    fs::write(place.plain(), content(300_000))?;
    let script = "import mmap, sys
with open(sys.argv[1], 'rb') as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print('mapped', m[0], flush=True)
sys.stdin.readline()
sys.exit(m[:] != open(sys.argv[2], 'rb').read())";
    let mut mapper = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .args([at.join("read"), place.plain()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    mapper.stdout.as_mut().context("it has an output")?.read_exact(&mut [0; 7])?;
    for name in ["read", "unread"] {
        fs::write(place.source().join(name), "changed")?;
    }
    served.ask("advance")?;
    ensure!(fs::read(at.join("read"))? == b"changed" && fs::read(at.join("unread"))? == b"changed");
    let mut all = vec![0; 300_000];
    read.read_exact_at(&mut all, 0)?;
    ensure!(all == content(300_000), "the open file is another version");
    ensure!(read.metadata()?.len() == 300_000);
    let error = unread.read_at(&mut all, 0).err().context("nothing of it was here")?;
    ensure!(error.raw_os_error() == Some(libc::ESTALE), "{error}");
    drop(mapper.stdin.take());
    ensure!(ended(&mut mapper)?.success(), "the mapping is another version");
    Ok(())
}

#[test]
fn a_listing_under_way_is_of_one_moment() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let name = |number: u32| format!("{number:05}-{}", "x".repeat(100));
    for number in 0..5000 {
        fs::write(place.source().join(name(number)), "")?;
    }
    let mut served = place.serve("wait=20s")?;
    let mut listing = fs::read_dir(place.mount_point())?;
    let mut names = vec![listing.next().context("there are entries")??.file_name()];
    for number in 0..5000 {
        fs::remove_file(place.source().join(name(number)))?;
        fs::write(place.source().join(format!("new{number}")), "")?;
    }
    served.ask("advance")?;
    for entry in listing {
        names.push(entry?.file_name());
    }
    names.sort();
    let expected: Vec<std::ffi::OsString> = (0..5000).map(|number| name(number).into()).collect();
    ensure!(names == expected, "{} names, of another moment", names.len());
    tree::compare(&place.source(), &place.mount_point())
}

/// Readers that never stop, while the tree changes: each file is one version or the other.
#[test]
fn no_reader_sees_a_mixture() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let version = |number: u8| vec![number; 200_000];
    fs::write(place.source().join("file"), version(0))?;
    let mut served = place.serve("wait=20s")?;
    let at = place.mount_point().join("file");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| -> Result<u32> {
                    let mut reads = 0;
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        let mut content = Vec::new();
                        let mut file = File::open(&at)?;
                        match file.read_to_end(&mut content) {
                            Ok(_) => {
                                let first = *content.first().context("it is empty")?;
                                ensure!(content == version(first), "a mixture of {} bytes", content.len());
                            }
                            Err(error) => ensure!(error.raw_os_error() == Some(libc::ESTALE), "{error}"),
                        }
                        reads += 1;
                    }
                    Ok(reads)
                })
            })
            .collect();
        let changed = (1..30).try_for_each(|number| {
            // In place: the inode is the same one.
            File::options()
                .write(true)
                .open(place.source().join("file"))?
                .write_all_at(&version(number), 0)?;
            served.ask("advance")
        });
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            let reads = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            ensure!(reads > 0);
        }
        changed
    })?;
    ensure!(fs::read(&at)? == version(29));
    Ok(())
}

#[test]
fn a_server_that_is_killed_while_it_goes_on_shows_one_or_the_other() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    for number in 0..300 {
        fs::write(place.source().join(format!("file{number}")), "0")?;
    }
    let mut served = place.serve("wait=20s")?;
    for round in 1..12u32 {
        for number in (0..300).filter(|number| number % 3 != 0) {
            fs::write(place.source().join(format!("file{number}")), round.to_string())?;
        }
        served.tell("advance")?;
        // At another moment each time.
        let until = Instant::now() + Duration::from_millis(u64::from(round) * 9);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        served.kill()?;
        drop(served);
        served = place.serve("wait=20s")?;
        let at = place.mount_point();
        let mut seen: Vec<String> = Vec::new();
        for number in 0..300 {
            match fs::read_to_string(at.join(format!("file{number}"))) {
                Ok(text) if number % 3 == 0 => ensure!(text == "0", "file{number} is {text}"),
                Ok(text) => seen.push(text),
                // The earlier version is not at the origin any more.
                Err(error) => ensure!(error.raw_os_error() == Some(libc::ESTALE), "{error}"),
            }
        }
        seen.sort();
        seen.dedup();
        ensure!(seen.len() <= 1, "round {round}: a mixture of {seen:?}");
        // It goes on from there, whichever it was.
        let _ = served.ask("advance");
        tree::compare(&place.source(), &at).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
