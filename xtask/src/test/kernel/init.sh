#!/bin/sh
# The guest's first process: loads the modules that tests need, and goes on in the host's root
# filesystem, read-only over virtio-fs, with a memory overlay that takes every write. From the
# kernel's command line: LPM_OUTPUT is where tests write, LPM_PROGRAMS is set if the guest cannot
# run the host's programs: then a second file server has others, which lie over the host's root.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    modprobe "$module" || echo "LPM-GUEST no module $module" >"$LPM_OUTPUT"
done </modules
mount -t virtiofs -o ro host /host || exec poweroff -f
if [ -n "$LPM_PROGRAMS" ]; then
    mount -t virtiofs -o ro programs /programs || exec poweroff -f
fi
mount -t tmpfs overlay /overlay
mkdir /overlay/upper /overlay/work
mount -t overlay overlay /root -o \
    "lowerdir=${LPM_PROGRAMS:+/programs:}/host,upperdir=/overlay/upper,workdir=/overlay/work" ||
    exec poweroff -f
for place in dev proc sys; do
    mount --move /$place /root/$place
done
mount -t tmpfs run /root/run
mkdir /root/run/lpm-guest
cp /tests.sh /jobs.sh /root/run/lpm-guest/
exec switch_root /root /bin/sh /run/lpm-guest/tests.sh
