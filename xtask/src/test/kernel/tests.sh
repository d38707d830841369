# The guest's second half: runs the tests that jobs.sh names, tells their output and how each
# ended over $LPM_OUTPUT, and switches the machine off.
exec </dev/null >"$LPM_OUTPUT" 2>&1
stty raw 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t bpf bpf /sys/fs/bpf
hostname lpm-guest
export HOME=/root RUST_TEST_THREADS=2 RUST_BACKTRACE=0
# Some tests make more of these than a small machine has by default.
ulimit -n 65536
# A capture's time is that of the hook beside it, and not of when the packet was queued: with a
# CPU this slow there are milliseconds in between.
echo 0 >/proc/sys/net/core/netdev_tstamp_prequeue

seconds() {
    cut -d. -f1 /proc/uptime
}

# run NAME SECONDS PROGRAM ARGUMENTS...
run() {
    name=$1 limit=$2
    shift 2
    begun=$(seconds)
    timeout --kill-after=5 "$limit" "$@" --color=never --show-output
    echo "LPM-GUEST test $name ended with $? after $(($(seconds) - begun)) s"
}

ip link set lo up
# The card to the neighbour, if there is one.
if [ -e /sys/class/net/eth0 ]; then
    ip address add 198.18.254.2/24 dev eth0
    ip link set eth0 up
fi
uname -r | sed 's/^/LPM-GUEST kernel /'
. /run/lpm-guest/jobs.sh
echo "LPM-GUEST done after $(seconds) s"
echo o >/proc/sysrq-trigger
sleep 60
