#!/bin/sh
# Takes a base backup of PostgreSQL, verifies it, and deletes the oldest.
set -eu

usage() {
    cat <<'END'
usage: backup.sh DIRECTORY [KEEP]

Writes DIRECTORY/base-TIME, which restore.sh takes, and keeps the newest KEEP of them (7). The server is named by the
variables of libpq: PGHOST, PGPORT, PGUSER=slate_replica, PGSSLMODE=verify-full, PGSSLROOTCERT, and PGPASSFILE with the
password. A replica does as well as the primary, and has less to do. Nothing is in DIRECTORY but what was verified.
END
}

case "${1-}" in -h | --help) usage; exit 0 ;; esac
if [ $# -lt 1 ] || [ $# -gt 2 ]; then usage >&2; exit 2; fi
directory=$1 keep=${2-7}
case $keep in '' | 0 | *[!0-9]*) echo "backup.sh: KEEP must be a number above 0" >&2; exit 2 ;; esac

umask 077
mkdir -p "$directory"
cd "$directory"
work=$(mktemp -d ./making.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

pg_basebackup --pgdata="$work/data" --wal-method=stream --checkpoint=fast --no-password
pg_verifybackup --quiet "$work/data"
name=base-$(date -u +%Y%m%dT%H%M%SZ)
while [ -e "$name" ]; do  # one of this second: another name sorts after it
    sleep 1
    name=base-$(date -u +%Y%m%dT%H%M%SZ)
done
mv "$work/data" "$name"
echo "$directory/$name: $(du -sh "$name" | cut -f1), verified"

# names are in order of time
find . -maxdepth 1 -type d -name 'base-*' | sort -r | tail -n "+$((keep + 1))" | while read -r old; do
    rm -rf "$old"
    echo "$directory/${old#./}: deleted"
done
