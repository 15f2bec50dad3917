//! What programs do to a workspace, as shell scripts that work in the current directory, and whether they did the same.

use anyhow::{Result, ensure};

/// Makes a workspace in the current directory.
pub const MAKE: &str = r#"
git init -q . && git config core.checkStat minimal
mkdir -p src/deep closed data
for i in $(seq 40); do echo "line $i" > src/f$i; done
head -c 3000001 /dev/urandom > data/large
truncate -s 2M data/sparse && printf end >> data/sparse
ln data/large src/deep/again
ln -s ../data/large src/link
echo x > closed/file && chmod 0555 closed
git add -A src data/sparse && git -c user.name=a -c user.email=a@b commit -q -m first
"#;

/// What people do to it, line by line.
pub const WORK: &str = r#"
set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
g() { git -c safe.directory='*' -c user.name=a -c user.email=a@b "$@"; }
test -z "$(g status --porcelain -uno)"
echo more >> src/f1; printf 'in the middle' | dd of=data/large bs=1 seek=1500000 conv=notrunc status=none
g add -A src && g commit -q -m second && g branch other && g checkout -q other && g mv src/f2 src/renamed
g commit -q -m third && g checkout -q - && g merge -q other && test -z "$(g status --porcelain src)"
mkdir new new/a new/b && mv src/deep new/a/deep && mv new/a moved && mv src/f3 moved/ && ln src/f4 moved/linked
rm src/f5 && rm -r new && mkdir src/f5 && echo file > src/f5/now-a-directory
chmod 0750 data && chmod u+w closed && touch closed/added && chmod 0555 closed
cp --sparse=always data/sparse data/sparse-copy && cmp data/sparse data/sparse-copy
echo secret > data/none && chmod 0000 data/none
truncate -s 100 src/f6 && truncate -s 70000 src/f7 && : > src/f8
mv --no-copy --exchange src/f9 src/f10 2>/dev/null || { mv src/f9 x && mv src/f10 src/f9 && mv x src/f10; }
tar -cf ../archive.tar --sparse -C data sparse large && mkdir unpacked && tar -xf ../archive.tar -C unpacked && rm ../archive.tar
python3 - <<'P'
import ctypes, fcntl, mmap, os, sqlite3, tempfile
with open('data/large', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0); m[100:107] = b'mapped!'; m[-3:] = b'end'; m.flush(); m.close()
with open('src/f11', 'r+b') as f:
    fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_UN)
    os.posix_fallocate(f.fileno(), 0, 10000); os.fsync(f.fileno())
with open('src/f12', 'w') as f:
    os.unlink('src/f12'); f.write('nobody sees it'); f.flush(); assert os.fstat(f.fileno()).st_nlink == 0
with open('src/f12', 'x') as f:
    f.write('another')
os.setxattr('src/f13', 'user.note', b'kept'); assert os.listxattr('src/f13') == ['user.note']
db = sqlite3.connect('data/base.db'); db.execute('pragma journal_mode=wal'); db.execute('create table t (x)')
db.executemany('insert into t values (?)', [(i,) for i in range(1000)]); db.commit()
assert db.execute('select sum(x) from t').fetchone() == (499500,); db.close()
os.utime('src/f14', ns=(1, -5_000_000_001)); assert os.stat('src/f14').st_mtime_ns == -5_000_000_001
with open('src/f15', 'ab') as one, open('src/f15', 'ab') as other:
    for i in range(100):
        one.write(b'one\n'); one.flush(); other.write(b'other\n'); other.flush()
names = set(os.listdir('src')); assert 'f12' in names and 'f3' not in names, names
P
test "$(wc -c < src/f12)" = 7
"#;

/// Everything about a tree but times and what git keeps about itself.
pub const TELL: &str = r#"
find . -path ./.git -prune -o -path './.twinshare-*' -prune -o -type d -printf '%P %y %m\n' -o -printf '%P %y %m %n %l %s\n' | sort
chmod u+r data/none
find . -path ./.git -prune -o -type f ! -name base.db -print0 | sort -z | xargs -0 md5sum
chmod 0000 data/none
python3 -c "import sqlite3; print(sqlite3.connect('data/base.db').execute('select count(*), sum(x) from t').fetchone())"
git -c safe.directory='*' log --format='%H %s' && git -c safe.directory='*' fsck --no-progress 2>&1 | grep -v dangling || true
"#;

/// Checks that [`TELL`] tells the same of two trees.
///
/// # Errors
/// The first lines that differ.
pub fn same(expected: &str, found: &str) -> Result<()> {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return Ok(()),
            (expected, found) => ensure!(expected == found, "expected {expected:?}, found {found:?}"),
        }
    }
}
