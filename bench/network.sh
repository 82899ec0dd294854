#!/bin/sh
# How near to its rates a guest is. Needs root and iperf3; works below a folder of its own, and removes it.
#
#     bench/network.sh rates [SECONDS [MBIT]]     as root
#
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
    rm -rf "$BULKHEAD_ROOT"
}
trap clean EXIT
trap 'exit 1' INT TERM

# A guest with the host's programs, of which it needs one.
guest() { "$bulkhead" create "$1" --template host --memory 512M --cpus none --start >/dev/null; }
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
*)
    echo "say rates" >&2
    exit 2
    ;;
esac
