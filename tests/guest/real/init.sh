#!/bin/busybox sh
# The guest's first process: modules, network, then commands, one line each, from the test's end of a virtio port.
#
# A command comes as "<number> <base64>" and is answered by "<number> <status> <base64 of all it wrote>".
# What the kernel's command line calls guest_* stands in the environment.
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
for module in $(cat /modules/order); do insmod "/modules/$module.ko" || echo "no module $module"; done

echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad # an address is usable at once
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set lo up
ip link set eth0 up
ip addr add "$guest_address4" dev eth0
ip -6 addr add "$guest_address6" dev eth0
ip route add default via "$guest_gateway4"
ip -6 route add default via "$guest_gateway6"
echo "nameserver $guest_resolver" >/etc/resolv.conf

until port=$(ls /dev/vport*p1 2>/tmp/said); do usleep 1000; done # the host tells of its ports when the driver has asked
exec 3<>"$port"
echo "0 0 $(cut -d ' ' -f 1 /proc/uptime | base64 -w 0)" >&3
while read -r number command <&3; do
  echo "$command" | base64 -d >/tmp/command
  setsid sh /tmp/command >/tmp/said 2>&1 </dev/null 3>&-
  echo "$number $? $(base64 -w 0 /tmp/said)" >&3
done
poweroff -f
