#!/bin/sh
# Export and import of a guest beside GNU tar and zstd on the same tree, in turn, each as often as
# asked. Needs root, a release build, tar and zstd; works below /var/tmp, or WHERE, and removes it.
#
#     bench/moving.sh [PROGRAM [ROUNDS [TREE [WHERE]]]]
#
# WHERE on a tmpfs leaves the disk out of it.
set -eu
program=$(realpath "${1:-target/x86_64-unknown-linux-gnu/release/bulkhead}")
rounds=${2:-5}
tree=${3:-/usr}
where=${4:-/var/tmp}
work=$(mktemp -d "$where/bulkhead-bench.XXXXXX")
from() { "$program" --root "$work/from" -q "$@"; }
to() { "$program" --root "$work/to" -q "$@"; }
clean() {
    from delete --all --force --yes || :
    to delete --all --force --yes || :
    rm -rf "$work"
}
trap clean EXIT INT TERM

seconds() { # LABEL COMMAND...: prints the time it took
    label=$1
    shift
    sync
    begin=$(date +%s%N)
    "$@"
    end=$(date +%s%N)
    printf '%-8s %6d ms\n' "$label" $(((end - begin) / 1000000)) | tee -a "$work/times"
}
tar_out() { tar --xattrs --acls --numeric-owner -S -C "$upper" -cf - . | zstd -q -T0 -o "$work/tree.tar.zst"; }
# Both ends of a move are on disk when they end.
tar_in() { mkdir "$work/in" && zstd -q -dc "$work/tree.tar.zst" | tar --xattrs --acls --numeric-owner -S -C "$work/in" -xpf - && sync -f "$work/in"; }
our_out() { from export bench --no-image -o "$work/guest.tar.zst"; }
our_in() { to import "$work/guest.tar.zst"; }

from create bench --template busybox --network none
from export bench -o "$work/image.tar.zst"
to import "$work/image.tar.zst" --name keeps-the-image
upper=$work/from/var/lib/bulkhead/guests/bench/root/upper
cp -a "$tree/." "$upper/"
du -sh "$upper"
find "$upper" | wc -l
cat "$program" > /dev/null
for _ in $(seq "$rounds"); do
    rm -f "$work/tree.tar.zst" "$work/guest.tar.zst"
    seconds tar-out tar_out
    seconds our-out our_out
    seconds tar-in tar_in
    rm -rf "$work/in"
    seconds our-in our_in
    to delete bench --force --yes
done
ls -l "$work"/*.zst
for label in tar-out our-out tar-in our-in; do
    grep "^$label " "$work/times" | sort -k 2 -n | awk -v n="$rounds" 'NR == int((n + 1) / 2) { print "median", $0 }'
done
