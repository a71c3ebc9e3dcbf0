#!/bin/busybox sh
# The first moments of an emulated guest: sees the machine's files, and leaves the rest to the errand's own init.
export PATH=/bin
for module in /modules/*; do
    busybox insmod "$module"
done
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose machine /root
busybox mount -t devtmpfs devtmpfs /root/dev
# shellcheck disable=SC2154 # a variable of the kernel's command line
exec busybox switch_root /root /bin/sh "$netd_exchange/init"
