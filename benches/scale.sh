#!/usr/bin/env bash
# A workspace of very many files, cloned over loopback at 1 Gbit/s: when it can be listed, when all of its metadata is
# there, what the clone's process holds in memory, and what one `touch` costs in a directory of 200,000 names.
#
#   cargo build --release && benches/scale.sh [FILES]      as root; in namespaces of its own, 1,000,000 files by default

set -euo pipefail

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || { echo "scale.sh makes namespaces: run it as root" >&2; exit 2; }
    top=$(mktemp -d)
    trap 'rm -rf "$top"' EXIT
    unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private -- "$0" inside "$top" "${1:-1000000}"
    exit
fi

readonly TOP=$2 FILES=$3 WIDE=200000
readonly TWINSHARE=${TWINSHARE_BIN:-$(dirname "$0")/../target/release/twinshare}
[ -x "$TWINSHARE" ] || { echo "$TWINSHARE is missing: cargo build --release" >&2; exit 2; }

now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.2f s", to - from }'; }
tw() { local home=$1; shift; TWINSHARE_HOME=$TOP/$home "$TWINSHARE" "$@"; }

ip link set lo up
tc qdisc add dev lo root tbf rate 1gbit burst 256k latency 50ms
truncate -s 40G "$TOP/disk"
mkfs.ext4 -q -N 4000000 "$TOP/disk"
mkdir "$TOP/on"
mount -o loop "$TOP/disk" "$TOP/on"
for home in a b; do
    mkdir -p -m 700 "$TOP/$home/config"
    echo 'discovery: {interfaces: [lo]}' >"$TOP/$home/config/config.yaml"
    TWINSHARE_HOME=$TOP/$home "$TWINSHARE" p2p start --foreground >"$TOP/$home.log" 2>&1 &
done

echo "making $FILES files"
/usr/bin/python3 - "$TOP/on/many" "$FILES" "$WIDE" <<'PYTHON'
import os, sys
top, files, wide = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(files):
    directory = f"{top}/wide" if number < wide else f"{top}/d{number // 50000}/e{number // 500}"
    if number in (0, wide) or number >= wide and number % 500 == 0:
        os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/a-file-with-a-name-{number}", "w") as file:
        if number % 10 == 0:
            file.write("x" * 100)
with open(f"{top}/sparse", "w") as file:
    file.truncate(20 << 30)
PYTHON

until tw a p2p status >/dev/null 2>&1 && tw b p2p status >/dev/null 2>&1; do sleep 0.1; done
tw a workspace create "$TOP/on/many" --name many >/dev/null
tw a workspace share many --open >/dev/null
until tw b workspace list --remote 2>/dev/null | grep -q many; do sleep 0.1; done

clone=$TOP/on/clone
replica() { pgrep -of "twinshare replica "; }
memory() { awk '/^RssAnon/ { printf "%d MB", $2 / 1024 }' "/proc/$(replica)/status"; }
peak=0
watch_memory() {
    while pid=$(replica); do
        kib=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 0)
        [ "${kib:-0}" -le "$peak" ] || { peak=$kib; echo "$peak" >"$TOP/peak"; }
        sleep 0.1
    done
}

began=$(now)
tw b workspace clone many "$clone" --no-settle >/dev/null
ls "$clone" >/dev/null
echo "clone, until its root is listed (the peer takes a snapshot first): $(since "$began")"
watch_memory &
until tw b workspace status "$clone" --json | grep -q '"files_total": *[0-9]'; do sleep 0.05; done
echo "clone, until all metadata is there and counted: $(since "$began")"

began=$(now)
tw b workspace clone many "$TOP/on/second" --no-settle >/dev/null
ls "$TOP/on/second" >/dev/null
echo "a second clone, until its root is listed: $(since "$began")"
tw b workspace rm "$TOP/on/second" --yes >/dev/null

began=$(now)
touch "$clone/wide/another"
echo "touch in a directory of $WIDE names, cold: $(since "$began")"
began=$(now)
rm "$clone/wide/a-file-with-a-name-77"
echo "rm there: $(since "$began")"
began=$(now)
find "$clone" -printf '%s\n' | wc -l | xargs echo "names found:"
echo "find with sizes, cold: $(since "$began")"
began=$(now)
/usr/bin/python3 - "$clone/sparse" <<'PYTHON'
import os, random, sys
random.seed(1)
file = os.open(sys.argv[1], os.O_RDWR)
for _ in range(2000):
    at = random.randrange(20 << 30) & ~4095
    assert os.pread(file, 4096, at) == bytes(4096)
    os.pwrite(file, b"y" * 4096, at)
    assert os.pread(file, 4096, at) == b"y" * 4096
PYTHON
echo "2,000 random reads and writes in a sparse file of 20 GiB: $(since "$began")"
echo "memory of the clone's process (anonymous): $(memory), at most $(awk '{ printf "%d MB", $1 / 1024 }' "$TOP/peak")"
tw b workspace rm "$clone" --yes >/dev/null
