#!/bin/sh
# The first process of the test guest: file systems, modules, then the agent for ever.
export PATH=/usr/bin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
for module in $(cat /etc/modules); do
  modprobe "$module" || echo "init: modprobe $module failed"
done
echo "init: up after $(cut -d' ' -f1 /proc/uptime) s"
/bin/sh /agent.sh
echo 'init: the agent ended'
exec sleep 1000000
