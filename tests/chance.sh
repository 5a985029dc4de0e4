#!/usr/bin/env bash
# Looks for tests that fail by chance: runs a file of tests in a network of its own, again and again, with programs that
#   clock  have a clock that runs 10 times as fast (CLOCK_RATE): a second ends between two lines
#   naps   sleep up to 10 ms where something is half done (NAP_US)
#   wire   talk over a loopback network where each packet takes up to 2 ms (WIRE_US)
#   core   share one processor with the tests
# and keeps what failed: tests/chance.sh METHOD TEST TIMES [what the test's program takes, as a part of a test's name]
# For root; build first: cargo build -p slabring -p slabring-cli -p slabring-load && cargo test -p slabring-tests --no-run --test TEST
set -euo pipefail
method=$1 name=$2 times=$3
shift 3
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-$PWD/../target}
test=$(find "$target/debug/deps" -name "$name-*" -executable -type f -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)
tools=$target/chance
net=chance$$
programs=$tools/with-$method
mkdir -p "$programs"
for tool in clock naps; do cc -O2 -shared -fPIC -o "$tools/$tool.so" "chance/$tool.c" -ldl; done
cc -O2 -o "$tools/wire" chance/wire.c

variables=()
case $method in
clock) variables=("CLOCK_RATE=${CLOCK_RATE:-10}" "LD_PRELOAD=$tools/clock.so") ;;
naps) variables=("NAP_US=${NAP_US:-10000}" "LD_PRELOAD=$tools/naps.so") ;;
wire | core) ;;
*) sed -n '2,8s/^# //p' "$0" >&2 && exit 2 ;;
esac
# In place of each program one that starts it so.
wrap() {
    printf '#!/bin/sh\nexec env %s "%s" "$@"\n' "${variables[*]}" "$2" >"$programs/$1"
    chmod +x "$programs/$1"
}
for program in slabring slabring-cli slabring-load; do wrap "$program" "$target/debug/$program"; done
wrap memcached "${SLABRING_MEMCACHED:-/usr/bin/memcached}"

ip netns add "$net"
trap 'kill $(jobs -p) 2>/dev/null || true; ip netns del "$net"' EXIT
ip -n "$net" link set lo up
if [ "$method" = wire ]; then
    ip netns exec "$net" "$tools/wire" wire0 "${WIRE_US:-2000}" &
    until ip -n "$net" link show wire0 >/dev/null 2>&1; do sleep 0.1; done
    # What is sent to 127/8 leaves by the wire, and what comes from there is this machine's.
    settings=(net.ipv6.conf.wire0.disable_ipv6=1 net.ipv4.conf.wire0.accept_local=1 net.ipv4.conf.wire0.rp_filter=0)
    settings+=(net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wire0.route_localnet=1 net.ipv4.conf.lo.route_localnet=1)
    ip netns exec "$net" sysctl -qw "${settings[@]}"
    ip -n "$net" link set wire0 mtu 65535 txqueuelen 10000 up
    # Some clients look for no address of IPv4 where an interface but loopback has none.
    ip -n "$net" addr add 198.18.0.1/24 dev wire0
    ip -n "$net" route add 127.0.0.0/8 dev wire0 src 127.0.0.1 table 100
    ip -n "$net" rule add pref 10 iif wire0 lookup local
    ip -n "$net" rule add pref 20 to 127.0.0.0/8 lookup 100
    ip -n "$net" rule add pref 30 lookup local
    ip -n "$net" rule del pref 0
fi
processors=$([ "$method" = core ] && echo 0 || echo 0-1023)

export SLABRING_BUILT=$programs SLABRING_MEMCACHED=$programs/memcached RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}
failed=0
for run in $(seq "$times"); do
    log=$tools/$method-$name-$run.log
    if ip netns exec "$net" taskset -c "$processors" timeout -k 5 600 "$test" "$@" >"$log" 2>&1; then
        rm "$log"
    else
        failed=$((failed + 1))
        echo "$log: $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | tr '\n' ' ')"
    fi
done
echo "$method: $failed of $times runs of $name failed"
[ "$failed" = 0 ]
