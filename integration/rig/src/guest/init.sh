#!/bin/sh
# The first process of a guest, on the machine's files. The kernel's command line says, as variables: netd_exchange (folder of the
# errand), netd_modules (folder with lib/modules), netd_share (how the folder is mounted), netd_first (who is the first process
# then: the shell that runs the errand, or systemd, whose unit the errand is).
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
modprobe -d "$netd_modules" overlay

root=/mnt/root
mount -t tmpfs -o size=75% memory /mnt
mkdir /mnt/upper /mnt/work "$root"
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t devtmpfs devtmpfs "$root/dev"
mkdir -p "$root/dev/pts" "$root/dev/shm"
mount -t devpts devpts "$root/dev/pts"
for folder in dev/shm tmp run var/lib/containerd; do
    mkdir -p "$root/$folder"
    mount -t tmpfs -o mode=1777 memory "$root/$folder"
done
# The kernel asks for modules by itself, as on any machine.
mkdir -p "$root/lib/modules"
mount --bind "$netd_modules/lib/modules" "$root/lib/modules"
mkdir "$root/run/exchange"
case "$netd_share" in
hostfs) mount -t hostfs -o "$netd_exchange" exchange "$root/run/exchange" ;;
9p) mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 exchange "$root/run/exchange" ;;
esac
ip link set lo up

# Whoever enters a mount namespace made here must find this root, and not the one below it.
cd "$root"
pivot_root . mnt
umount -l mnt
echo "guest: $(uname -r), up after $(cut -d " " -f 1 /proc/uptime) s"
cat > run/errand.sh <<'END'
sh /run/exchange/errand > /run/exchange/output 2>&1
echo $? > /run/exchange/status
sync
exec busybox poweroff -f
END
export HOME=/root
case "$netd_first" in
shell) exec chroot . /bin/sh /run/errand.sh ;;
systemd)
    mkdir -p run/systemd/system
    cat > run/systemd/system/errand.service <<'END'
[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh /run/errand.sh
END
    exec chroot . /lib/systemd/systemd --unit=errand.service
    ;;
esac
