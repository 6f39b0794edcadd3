#!/bin/sh
# Boots a root directory with systemd as PID 1: deb_boot.sh ROOT PLACE, run by `unshare` in namespaces of its own.
# Nothing is written to ROOT; what the machine writes is in memory, and goes with it.
set -eu
root=$1 place=$2
mount --make-rprivate /
mount -t tmpfs -o size=3g tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay -o "lowerdir=$root,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
root=$place/root
mount -t proc -o nosuid,noexec,nodev proc "$root/proc"
# The kernel's settings are the host's; those of the network are this machine's own.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro,nosuid,noexec,nodev sysfs "$root/sys"
mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 "$root/sys/fs/cgroup"
mount -t bpf -o nosuid,noexec,nodev,mode=700 bpf "$root/sys/fs/bpf"
mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for node in null zero full random urandom tty; do cp -a "/dev/$node" "$root/dev/"; done
hostname deb
cd "$root"
mkdir host
pivot_root . host
# No machine loads modules into the host's kernel, or sets its clock.
exec chroot . /bin/sh -c 'umount -l /host; rmdir /host; exec setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time \
  env -i container=exeat-tests PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init'
