#!/bin/sh
# The first process of a guest whose firmware loaded it from one of our disks: writes to the last sector of that disk.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /etc/modules); do modprobe "$module"; done
until disk=$(ls /dev/sda 2>/dev/null || ls /dev/vda 2>/dev/null); do sleep 0.1; done
sectors=$(cat "/sys/block/${disk##*/}/size")
echo "written by the system that $(ls -d /sys/firmware/efi) started" >/mark
dd if=/mark of="$disk" bs=512 seek=$((sectors - 1)) conv=sync,fsync 2>/dev/null
echo "init: came from $disk of $sectors sectors"
poweroff -f
