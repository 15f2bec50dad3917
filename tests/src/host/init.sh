# The first process of a test host, run in namespaces of its own: lays out private directories, says "ready", and stays
# until its standard input closes, which is when the test process is gone. Its end ends every process of the host, and with
# the last of them go the mounts, the loop device and the network.
#
# $1 name, $2 tmpfs or ext4, $3 identity of the ordinary user, $4 its name, then the executables to be found on PATH, each
# after the name it has there
# shellcheck shell=bash
set -euo pipefail
name=$1 disk=$2 uid=$3 user=$4
shift 4
shown="home root opt srv media tmp var/tmp run"

mount -t proc -o nosuid,noexec,nodev proc /proc
mount -t sysfs -o nosuid,noexec,nodev sysfs /sys
printf %s "$name" >/proc/sys/kernel/hostname
ip link set lo up

# Everything is laid out on /mnt first and then bound into place: the executables may lie in a directory that gets hidden.
mount -t tmpfs -o mode=755,size=80% twinshare-test /mnt
base=/mnt/files
mkdir "$base"
if [ "$disk" = ext4 ]; then
    truncate -s 8G "/mnt/image-$name"
    mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1 "/mnt/image-$name"
    mount -o loop "/mnt/image-$name" "$base"
fi
for dir in $shown; do mkdir -p "$base/$dir"; done
chmod 1777 "$base/tmp" "$base/var/tmp"
chmod 700 "$base/root"
install -d -m 700 -o "$uid" -g "$uid" "$base/home/$user" "$base/run/user/$uid"
mkdir -p "$base/run/twinshare-test"
while [ $# -gt 0 ]; do
    touch "$base/run/twinshare-test/$1"
    mount --bind "$2" "$base/run/twinshare-test/$1"
    shift 2
done

# The ordinary user exists here alone, and may open /dev/fuse here alone.
mkdir /mnt/etc
grep -v "^$user:" /etc/passwd >/mnt/etc/passwd
grep -v "^$user:" /etc/group >/mnt/etc/group
echo "$user:x:$uid:$uid::/home/$user:/bin/bash" >>/mnt/etc/passwd
echo "$user:x:$uid:" >>/mnt/etc/group
mount --bind /mnt/etc/passwd /etc/passwd
mount --bind /mnt/etc/group /etc/group
if mknod -m 666 /mnt/fuse c 10 229 2>/dev/null && : <>/mnt/fuse 2>/dev/null; then mount --bind /mnt/fuse /dev/fuse; fi

for dir in $shown; do
    if [ -d "/$dir" ]; then mount --rbind "$base/$dir" "/$dir"; fi
done
cd /
echo ready
# Not `exec`: this shell is process 1 and reaps what its descendants leave behind.
read -r _ || true
