#!/bin/sh
# What a dedicated guest loses while another guest wants all CPUs it can get.
#
#   bench/dedicated.sh [SECONDS]        as root, on a machine with two CPUs or more
#
# A guest with a whole CPU of its own counts in a loop for so many seconds, once alone and once beside a
# guest that shares and runs a loop for each CPU of the machine, five times in turns. Prints the counts
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

# Turns of a loop in the guest until the time is up: what a CPU gets done, not what it is charged for. It
# reads no file of /proc meanwhile: those are answered by the guest's keeper, which is kept off its CPU.
count() {
    "$bulkhead" exec own -- timeout "$seconds" sh -c '
        n=0; trap "echo \$n; exit" TERM
        while :; do
            i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done; n=$((n + 1))
        done' || true
}

load() {
    n=0
    while [ "$n" -lt "$(nproc)" ]; do
        "$bulkhead" exec loud -- sh -c 'while :; do :; done' &
        n=$((n + 1))
    done
    sleep 1
}

losses=
alone=0
beside=0
for round in 1 2 3 4 5; do
    a=$(count)
    load
    b=$(count)
    "$bulkhead" restart loud --timeout 0s >/dev/null 2>&1 || "$bulkhead" restart loud >/dev/null
    wait
    echo "round $round: $a alone, $b beside a full load"
    alone=$((alone + a))
    beside=$((beside + b))
    losses="$losses $(awk -v a="$a" -v b="$b" 'BEGIN { printf "%.2f", (a - b) * 100 / a }')"
done
# One round in which something else ran says nothing.
middle=$(echo "$losses" | tr ' ' '\n' | grep . | sort -n | sed -n 3p)
awk -v a="$alone" -v b="$beside" -v m="$middle" \
    'BEGIN { printf "lost: %.2f%% of all, %s%% in the middle of the rounds\n", (a - b) * 100 / a, m }'
