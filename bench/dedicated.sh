#!/bin/sh
# What a dedicated guest loses while another guest wants all CPUs it can get.
#
#   bench/dedicated.sh [SECONDS]        as root, on a machine with two CPUs or more
#
# A guest with a whole CPU of its own counts in a loop for so many seconds, once alone and once beside a
# guest that shares and runs a loop for each CPU of the machine, three times in turns. Prints the counts
# and what was lost. The program is $BULKHEAD_BIN or `bulkhead`; its installation is a folder of its own,
# gone at the end.
set -eu

seconds=${1:-10}
bulkhead=${BULKHEAD_BIN:-bulkhead}
BULKHEAD_ROOT=$(mktemp -d /tmp/bulkhead-dedicated.XXXXXX)
export BULKHEAD_ROOT
clean() {
    "$bulkhead" delete --all --force >/dev/null 2>&1 || true
    "$bulkhead" doctor --fix >/dev/null 2>&1 || true
    rm -rf "$BULKHEAD_ROOT"
}
trap clean EXIT
trap 'exit 1' INT TERM

quiet="--template busybox --network none --memory 64M --cpus none"
# shellcheck disable=SC2086
"$bulkhead" create own $quiet --cpu-mode dedicated --dedicated 1 --start >/dev/null
# shellcheck disable=SC2086
"$bulkhead" create loud $quiet --start >/dev/null

# Turns of a loop in the guest until the time is up: what a CPU gets done, not what it is charged for.
count() {
    "$bulkhead" exec own -- sh -c "
        end=\$((\$(cut -d. -f1 /proc/uptime) + $seconds + 1)); n=0
        while [ \$(cut -d. -f1 /proc/uptime) -lt \$((end - $seconds)) ]; do :; done
        while :; do
            i=0; while [ \$i -lt 20000 ]; do i=\$((i + 1)); done; n=\$((n + 1))
            read -r up rest </proc/uptime; [ \${up%.*} -lt \$end ] || break
        done
        echo \$n"
}

load() {
    n=0
    while [ "$n" -lt "$(nproc)" ]; do
        "$bulkhead" exec loud -- sh -c 'while :; do :; done' &
        n=$((n + 1))
    done
    sleep 1
}

alone=0
beside=0
for round in 1 2 3; do
    a=$(count)
    load
    b=$(count)
    "$bulkhead" restart loud --timeout 0s >/dev/null 2>&1 || "$bulkhead" restart loud >/dev/null
    wait
    echo "round $round: $a alone, $b beside a full load"
    alone=$((alone + a))
    beside=$((beside + b))
done
awk -v a="$alone" -v b="$beside" 'BEGIN { printf "lost: %.2f%%\n", (a - b) * 100 / a }'
