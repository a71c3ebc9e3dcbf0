# netd's life as a service, under systemd, with the units as they are shipped. `units.rs` says where `programs` and
# `packaging` are, and reads what is printed here.
set -eu

say() { echo "== $*"; }

# Until it succeeds, for at most a minute.
soon() {
    left=600
    until "$@" > /dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { say "in vain: $*"; "$@"; systemctl status --no-pager netd; return 1; }
        sleep 0.1
    done
}

told() { systemctl show --value --property "$1" netd; }

# Its process is not this one, and is ready.
is_another() {
    now=$(told MainPID)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && [ "$(told ActiveState)" = active ]
}

attachments() { netdctl -o json status | grep -o '"attachments": *[0-9]*' | grep -o '[0-9]*$'; }

cni() {
    printf '%s' "$NETWORK" | CNI_COMMAND=$1 CNI_CONTAINERID=web CNI_NETNS=$2 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/bridge
}

# What the sandbox serves, by the published port.
page() {
    timeout 20 bash -c 'exec 3<> /dev/tcp/192.0.2.1/8080; printf "GET /page HTTP/1.0\r\n\r\n" >&3; cat <&3' | grep -x here
}

ports_listen() { [ "$(ss --listening --tcp --numeric --no-header 'sport = :8080' | wc -l)" = 2 ]; }

NETWORK='{"cniVersion": "1.0.0", "name": "web", "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true,
    "capabilities": {"portMappings": true},
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.4.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}'

say installed
cp "$programs/netd" "$programs/netd-hook" /usr/sbin/
cp "$programs/netdctl" /usr/bin/
mkdir -p /opt/cni/bin /etc/netd
cp "$programs/netd-cni" /opt/cni/bin/bridge
cp "$packaging/netd.toml" /etc/netd/
cp "$packaging"/systemd/*.service /etc/systemd/system/
# The watchdog's half minute would be this test's.
mkdir -p /run/systemd/system/netd.service.d
printf '[Service]\nWatchdogSec=15s\nTimeoutAbortSec=1s\n' > /run/systemd/system/netd.service.d/soon.conf
systemctl daemon-reload
modprobe dummy
ip link add outside type dummy
ip address add 192.0.2.1/24 dev outside
ip link set outside up

systemctl start netd || { journalctl --no-pager --lines 60; exit 1; }
say "started: $(told ActiveState), told by $(told Type)"
systemctl start netd-hook
mkdir /srv/page
echo here > /srv/page/page
ip netns add web
cni ADD /run/netns/web > /dev/null
ip netns exec web busybox httpd -p 80 -h /srv/page
say "attached: $(attachments), the page: $(page), sockets kept: $(told NFileDescriptorStore)"

pid=$(told MainPID)
systemctl kill --signal KILL netd
soon is_another "$pid"
soon page
ports_listen
say "killed: started again $(told NRestarts) time, attached: $(attachments), sockets kept: $(told NFileDescriptorStore)"

pid=$(told MainPID)
systemctl kill --signal STOP netd
page > /dev/null
say "stopped by a signal: the published port leads to its sandbox all the same"
soon is_another "$pid"
soon page
say "the watchdog started it again, attached: $(attachments), sockets kept: $(told NFileDescriptorStore)"

systemctl restart netd
ports_listen
say "restarted: attached: $(attachments), the page: $(page), sockets kept: $(told NFileDescriptorStore)"

systemctl stop netd
page > /dev/null
say "shut down: the published port leads to its sandbox all the same, mode of /run/netd: $(stat --format %a /run/netd)"
cni DEL ""
systemctl start netd
soon [ "$(attachments)" = 0 ]
say "detached while it was down: attached: $(attachments), sockets kept: $(told NFileDescriptorStore)"
! page
say "hook: $(systemctl is-active netd-hook), without containerd"

echo 'workers = 0' > /etc/netd/netd.toml
! systemctl restart netd 2> /dev/null
say "a mistake in netd.toml: $(told ActiveState) with $(told ExecMainStatus), started again $(told NRestarts) times"
cp "$packaging/netd.toml" /etc/netd/
systemctl restart netd
say "corrected: $(told ActiveState)"

journalctl --unit netd --unit netd-hook --output cat --no-pager > /tmp/journal
count() { grep --count --fixed-strings "$1" /tmp/journal || true; }
say "forbidden by the units: $(count 'Operation not permitted')"
say "colours in the journal: $(count "$(printf '\033')")"
tail -n 60 /tmp/journal
