#!/bin/sh
# How near to its rates a guest is, and what a network of guests costs beside a bare bridge. Needs root and
# iperf3; works below a folder of its own, and removes it.
#
#     bench/network.sh rates [SECONDS [MBIT]]     as root
#     bench/network.sh pair [SECONDS [ROUNDS]]
#
# `pair` measures TCP from one guest to another, with all that holds guests to their addresses and counts
# what they send, and in turn between two guests without a network that are given the same pairs by hand, on
# a bridge without any of it: who is limited by what, and so who runs on which CPU, is the same in both. Of
# the rounds (5) it prints the median and the range of ratios. Last, for comparison, two network namespaces
# with programs of the host's, which the scheduler treats otherwise.
# `rates` keeps a guest to 1, 10, 100 and 1000 mbit in both directions, measures TCP with the host for so
# many seconds, and prints what that is in frames with their headers, as rates are counted: of a frame of
# 1514 bytes 1448 are told by iperf3. What lay in the queue when it began to count is in that too: at 1 mbit
# it takes half a minute until that is little. The program is $BULKHEAD_BIN or `bulkhead`.
set -eu

what=${1:-rates}
seconds=${2:-4}
bulkhead=${BULKHEAD_BIN:-bulkhead}
BULKHEAD_ROOT=$(mktemp -d /tmp/bulkhead-network.XXXXXX)
export BULKHEAD_ROOT
servers=
clean() {
    # shellcheck disable=SC2086
    [ -z "$servers" ] || kill $servers 2>/dev/null || true
    "$bulkhead" delete --all --force --yes >/dev/null 2>&1 || true
    "$bulkhead" doctor --fix >/dev/null 2>&1 || true
    for end in end one two bridge; do ip netns delete "bench-$$-$end" 2>/dev/null || true; done
    rm -rf "$BULKHEAD_ROOT"
}
trap clean EXIT
trap 'exit 1' INT TERM

# A guest with the host's programs, of which it needs one.
guest() { # NAME [OPTION...]
    "$bulkhead" create "$@" --template host --memory 512M --cpus none --start >/dev/null
}
process() { "$bulkhead" info "$1" --format json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p' | head -n 1; }
# A pair of interfaces on the bench's bridge: NUMBER, FILE of the network namespace of its other end.
by_hand() {
    touch "/run/netns/bench-$$-end"
    mount --bind "$2" "/run/netns/bench-$$-end"
    ip -n "bench-$$-bridge" link add "end$1" type veth peer name hand0 netns "bench-$$-end"
    ip -n "bench-$$-bridge" link set "end$1" master bridge up
    ip -n "bench-$$-end" addr add "192.0.2.$1/24" dev hand0
    ip -n "bench-$$-end" link set hand0 up
    ip netns delete "bench-$$-end"
}
address() { "$bulkhead" wait "$1" ip; }
# kbit/s that the receiver got, from what iperf3 prints.
got() { awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i ~ /^Kbits/) print $(i - 1) }'; }
measure() { # COMMAND... (the last words are iperf3's)
    "$@" -p 5201 -t "$seconds" -O 1 -f k | got
}

case $what in
rates)
    guest a
    gateway=$(address a | sed 's/\.[0-9]*$/.1/')
    iperf3 -s -B "$gateway" -p 5201 >/dev/null 2>&1 &
    servers=$!
    sleep 1
    printf '%10s %14s %14s\n' rate 'to the guest' 'from the guest'
    for mbit in ${3:-1 10 100 1000}; do
        "$bulkhead" set a --rate-in "${mbit}mbit" --rate-out "${mbit}mbit" >/dev/null
        in=$(measure "$bulkhead" exec a -- iperf3 -c "$gateway" -R)
        out=$(measure "$bulkhead" exec a -- iperf3 -c "$gateway")
        echo "$mbit $in $out" | awk '{
            frames = 1514 / 1448 / 1000
            printf "%5d mbit %7.2f %+5.1f%% %7.2f %+5.1f%%\n", $1, $2 * frames, ($2 * frames / $1 - 1) * 100, $3 * frames, ($3 * frames / $1 - 1) * 100
        }'
    done
    ;;
pair)
    guest a
    guest b
    guest c --network none
    guest d --network none
    there=$(address b)
    # Not on the host itself, whose rules see what its bridges pass on.
    ip netns add "bench-$$-bridge"
    ip -n "bench-$$-bridge" link add bridge type bridge
    ip -n "bench-$$-bridge" link set bridge up
    ip netns add "bench-$$-one"
    ip netns add "bench-$$-two"
    by_hand 1 "/run/netns/bench-$$-one"
    by_hand 2 "/run/netns/bench-$$-two"
    by_hand 3 "/proc/$(process c)/ns/net"
    by_hand 4 "/proc/$(process d)/ns/net"
    for server in b d; do "$bulkhead" exec "$server" -- iperf3 -s -D -p 5201; done
    ip netns exec "bench-$$-two" iperf3 -s -p 5201 >/dev/null 2>&1 &
    servers=$!
    sleep 1
    for round in $(seq "${3:-5}"); do
        guests=
        # In turn first, since who goes first may find the machine otherwise.
        if [ $((round % 2)) = 1 ]; then guests=$(measure "$bulkhead" exec a -- iperf3 -c "$there"); fi
        bare=$(measure "$bulkhead" exec c -- iperf3 -c 192.0.2.4)
        [ -n "$guests" ] || guests=$(measure "$bulkhead" exec a -- iperf3 -c "$there")
        host=$(measure ip netns exec "bench-$$-one" iperf3 -c 192.0.2.2)
        echo "$guests $bare $host"
    done | awk '{ print $1 / $2, $1 / 1e6, $2 / 1e6, $3 / 1e6 }' | sort -n | awk '
        { ratio[NR] = $1; guests[NR] = $2; bare[NR] = $3; host[NR] = $4 }
        END {
            m = int((NR + 1) / 2)
            printf "guests %.1f Gbit/s, guests with a bare bridge %.1f Gbit/s: %.3f (%.3f to %.3f); namespaces %.1f Gbit/s\n", \
                guests[m], bare[m], ratio[m], ratio[1], ratio[NR], host[m]
        }'
    ;;
*)
    echo "say rates or pair" >&2
    exit 2
    ;;
esac
