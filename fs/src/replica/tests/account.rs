//! What a replica tells of its files: what is here, how it came, who waits.

use super::*;
use crate::filesystem::{CloneTree, NodeId, Owner};

fn file_account(bench: &Bench, path: &str) -> FileAccount {
    match bench.replica.account(0, path.as_bytes()) {
        Ok(Account::File(told)) => told,
        other => panic!("{path}: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_is_told_of_from_nothing_to_all_of_it() {
    for filesystem in FILESYSTEMS {
        let mut sparse = file("sparse", 6 * BLOCK);
        sparse.holes.push(BLOCK..4 * BLOCK);
        let mut content = sparse.content.to_vec();
        content[BLOCK as usize..4 * BLOCK as usize].fill(0);
        sparse.content = content.into();
        let bench = Bench::with(&[file("d/large", 20 * BLOCK + 5), sparse], WhenGone::Fail, filesystem);
        let told = file_account(&bench, "d/large");
        assert_eq!((told.presence, told.blocks_here, told.blocks), (Presence::Virtual, 0, 21));
        assert_eq!((told.came, told.waited), (None, None));
        on_behalf_of(std::process::id(), bench.check("d/large", 0, 1)).await;
        bench.replica.idle().await;
        let told = file_account(&bench, "/d//large");
        assert_eq!((told.presence, told.is_changed, told.bytes), (Presence::Partial, false, 20 * BLOCK + 5));
        assert!((1..21).contains(&told.blocks_here), "{told:?}");
        let (came, waited) = (told.came.unwrap(), told.waited.unwrap());
        assert!(came.bytes.demand > 0 && came.bytes.bulk == 0, "{came:?}");
        assert_eq!((waited.times, waited.last_end), (1, WaitEnd::Served));
        assert_eq!(waited.first_by.map(|program| program.pid), Some(std::process::id()));
        bench.check("d/large", 0, 20 * BLOCK + 5).await;
        bench.check("sparse", 0, 6 * BLOCK).await;
        bench.replica.idle().await;
        assert_eq!(file_account(&bench, "d/large").presence, Presence::Resident);
        let told = file_account(&bench, "sparse");
        assert_eq!((told.presence, told.blocks_here, told.blocks), (Presence::Resident, 6, 6));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_named_with_the_path() {
    let bench = Arc::new(Bench::new(&[file("d/a", 10 * MIB), file("@1/b", 5)]));
    bench.origin.otherwise(Act::Stall(0));
    let reading = ["d/a", "@1/b"].map(|path| {
        let (bench, thread) = (bench.clone(), std::process::id());
        tokio::spawn(on_behalf_of(thread, async move { bench.read(path, 0, 1).await }))
    });
    while bench.replica.reading(8).len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut told = bench.replica.reading(8);
    told.sort_by_key(|read| read.root);
    let named: Vec<_> = told.iter().map(|read| (read.root, read.path.as_slice())).collect();
    assert_eq!(named, [(0, b"d/a".as_slice()), (1, b"b".as_slice())]);
    assert!(told.iter().all(|read| read.program.as_ref().unwrap().pid == std::process::id()), "{told:?}");
    assert_eq!(file_account(&bench, "d/a").reading.len(), 1);
    reading.iter().for_each(tokio::task::JoinHandle::abort);
    for read in reading {
        let _ = read.await;
    }
    assert_eq!(bench.replica.reading(8), []);
    assert_eq!(file_account(&bench, "d/a").waited.unwrap().last_end, WaitEnd::GivenUp);
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_told_of_with_all_below_it() {
    let files =
        [file("d/a", 70_000), file("d/b", 0), file("e/c", 30_000), file(".git/config", 99), file("@1/x", 4)];
    let bench = Bench::with(&files, WhenGone::Fail, "/tmp");
    bench.counted().await;
    let check = |root, path: &str, files, bytes, files_here, bytes_here| {
        let expected = DirectoryAccount {
            is_made_here: false,
            files,
            bytes,
            files_here: Some(files_here),
            bytes_here: Some(bytes_here),
        };
        assert_eq!(bench.replica.account(root, path.as_bytes()), Ok(Account::Directory(expected)), "{path}");
    };
    check(0, "", 4, 100_099, 2, 99);
    bench.check("d/a", 0, 1).await;
    bench.replica.idle().await;
    check(0, "/d", 2, 70_000, 2, 70_000);
    check(0, "e", 1, 30_000, 0, 0);
    check(1, "", 1, 4, 0, 0);
    assert_eq!(file_account(&bench, ".git/config").presence, Presence::Substitute);
    for path in ["none", "d/a/below", "d/..", "\0"] {
        assert_eq!(bench.replica.account(0, path.as_bytes()), Err(AccountError::NoSuchFile), "{path}");
    }
    assert_eq!(bench.replica.account(7, b""), Err(AccountError::NoSuchFile));
}

#[tokio::test]
async fn what_was_changed_or_made_here_is_local_where_it_lies_now() {
    let bench = Bench::writable(&[file("d/a", 70_000), file("d/b", 5)], "/tmp");
    let names = bench.replica.names().unwrap().clone();
    let tree = CloneTree::new(bench.replica.clone(), names, Owner::of_this_process());
    let node = |at: NodeId, name: &str| tree.lookup(at, name.as_bytes()).unwrap().unwrap().node;
    tree.rename((NodeId::ROOT, b"d"), (NodeId::ROOT, b"moved"), rustix::fs::RenameFlags::empty()).unwrap();
    assert_eq!(bench.replica.account(0, b"d/a"), Err(AccountError::NoSuchFile));
    assert_eq!(file_account(&bench, "moved/a").presence, Presence::Virtual);
    let a = node(node(NodeId::ROOT, "moved"), "a");
    assert_eq!(tree.open(a, true), Ok(()));
    assert_eq!(tree.write(a, 0, Bytes::from_static(b"new")).await, Ok(3));
    let told = file_account(&bench, "moved/a");
    assert!(told.is_changed && told.blocks_here >= 1, "{told:?}");
    bench.replica.localize(bench.tree.index("d/a")).await.unwrap();
    assert_eq!(file_account(&bench, "moved/a").presence, Presence::Local);
    bench.origin.otherwise(Act::Stall(0));
    let reading = bench.read("d/b", 0, 1);
    tokio::pin!(reading);
    let told = tokio::select! {
        read = &mut reading => panic!("{read:?}"),
        told = async {
            while bench.replica.reading(8).is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            bench.replica.reading(8)
        } => told,
    };
    assert_eq!((told[0].path.as_slice(), &told[0].program), (b"moved/b".as_slice(), &None));
    tree.release(a);
}
