#!/bin/sh
# How near to its rates a guest is, and what the way between two guests costs. Needs root, iperf3 and
# iproute2; works below a folder of its own, and removes it.
#
#     bench/network.sh rates [SECONDS]     as root
#     bench/network.sh pair [SECONDS]
#
# `rates` keeps a guest to 1, 10, 100 and 1000 mbit in both directions, measures TCP with the host for so
# many seconds, and prints what that is in frames with their headers, as rates are counted: of a frame of
# 1514 bytes 1448 are told by iperf3. `pair` measures TCP between two guests on the bridge, with
# anti-spoofing and accounts as always, and between two network namespaces with nothing but a veth pair
# made by hand, in turns. The program is $BULKHEAD_BIN or `bulkhead`.
set -eu

what=${1:-rates}
seconds=${2:-4}
bulkhead=${BULKHEAD_BIN:-bulkhead}
BULKHEAD_ROOT=$(mktemp -d /tmp/bulkhead-network.XXXXXX)
export BULKHEAD_ROOT
tag=$$
servers=
clean() {
    # shellcheck disable=SC2086
    [ -z "$servers" ] || kill $servers 2>/dev/null || true
    "$bulkhead" delete --all --force --yes >/dev/null 2>&1 || true
    "$bulkhead" doctor --fix >/dev/null 2>&1 || true
    ip netns delete "bench-$tag-a" 2>/dev/null || true
    ip netns delete "bench-$tag-b" 2>/dev/null || true
    rm -rf "$BULKHEAD_ROOT"
}
trap clean EXIT
trap 'exit 1' INT TERM

# Guests with the host's programs, of which they need one.
guest() { "$bulkhead" create "$1" --template host --memory 512M --cpus none --start >/dev/null; }
address() { "$bulkhead" wait "$1" ip; }
# kbit/s that the receiver got, from what iperf3 prints.
got() { awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i ~ /^Kbits/) print $(i - 1) }'; }
serve() { # COMMAND...
    "$@" iperf3 -s -p 5201 >/dev/null 2>&1 &
    servers="$servers $!"
    sleep 1
}
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
    for mbit in 1 10 100 1000; do
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
    to=$(address b)
    serve "$bulkhead" exec b --
    for side in a b; do
        ip netns add "bench-$tag-$side"
    done
    ip -n "bench-$tag-a" link add eth0 type veth peer name eth0 netns "bench-$tag-b"
    ip -n "bench-$tag-a" addr add 192.0.2.1/24 dev eth0
    ip -n "bench-$tag-b" addr add 192.0.2.2/24 dev eth0
    ip -n "bench-$tag-a" link set eth0 up
    ip -n "bench-$tag-b" link set eth0 up
    serve ip netns exec "bench-$tag-b"
    for _ in 1 2 3; do
        hand=$(measure ip netns exec "bench-$tag-a" iperf3 -c 192.0.2.2)
        guests=$(measure "$bulkhead" exec a -- iperf3 -c "$to")
        echo "$hand $guests" | awk '{
            printf "by hand %6.2f gbit, two guests %6.2f gbit, %+.1f%%\n", $1 / 1e6, $2 / 1e6, ($2 / $1 - 1) * 100
        }'
    done
    ;;
*)
    echo "say rates or pair" >&2
    exit 2
    ;;
esac
