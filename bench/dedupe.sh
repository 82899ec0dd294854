#!/bin/sh
# What guests with the same files take on disk and in memory, before and after `bulkhead dedupe`. Needs root;
# works below /var/tmp, or WHERE, and removes it.
#
#     bench/dedupe.sh [PROGRAM [GUESTS [TREE [WHERE]]]]
set -eu
program=$(realpath "${1:-target/x86_64-unknown-linux-gnu/release/bulkhead}")
guests=${2:-10}
tree=${3:-/usr/include}
where=${4:-/var/tmp}
work=$(mktemp -d "$where/bulkhead-bench.XXXXXX")
bulkhead() { "$program" --root "$work" -q "$@"; }
clean() {
    bulkhead delete --all --force --yes || :
    rm -rf "$work"
}
trap clean EXIT INT TERM

disk() { # LABEL
    sync -f "$work"
    printf '%-28s %6d MiB\n' "$1" "$(du -sm "$work" | cut -f 1)"
}
for n in $(seq "$guests"); do
    bulkhead create "g$n" --template busybox --network none --memory 2G
    own=$work/var/lib/bulkhead/guests/g$n/root/upper
    mkdir "$own/opt"
    cp -a "$tree" "$own/opt/"
    [ "$n" -gt 1 ] || disk "disk, 1 guest"
done
disk "disk, $guests guests"
bulkhead dedupe
disk "disk, $guests guests, now"
# Of pages of a file that several use, the one that read them first is charged.
for n in $(seq "$guests"); do
    bulkhead start "g$n"
    bulkhead exec "g$n" -- sh -c 'find /opt -type f -exec cat {} + > /dev/null'
    memory=$(bulkhead --format json info "g$n" | sed -n 's/^  "memory": \([0-9]*\),.*/\1/p')
    printf '%-28s %6d MiB\n' "memory, g$n has read all" $((memory >> 20))
done
