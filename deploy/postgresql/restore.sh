#!/bin/sh
# Puts a base backup in the place of a data directory that is gone; the server that is started on it is a primary.
set -eu

usage() {
    cat <<'END'
usage: restore.sh BACKUP DATA

BACKUP is a directory that backup.sh wrote, DATA the data directory, which must not exist: move the old one away. Run it
as the user postgres, and start the server afterwards: it goes up to the end of the backup, and begins a new timeline, so
that replicas and workers of the old one notice. Replicas must be made anew.
END
}

case "${1-}" in -h | --help) usage; exit 0 ;; esac
if [ $# -ne 2 ]; then usage >&2; exit 2; fi
backup=$1 data=$2
[ -f "$backup/backup_manifest" ] || { echo "restore.sh: $backup is no base backup" >&2; exit 1; }
[ ! -e "$data" ] || { echo "restore.sh: $data is there: stop the server and move it away" >&2; exit 1; }

umask 077
pg_verifybackup --quiet "$backup"
work=$data.restoring
rm -rf "$work"
cp -a "$backup" "$work"
rm -f "$work/standby.signal" "$work/backup_manifest"
# With an archive that has nothing, recovery uses the log of the backup and ends on a timeline of its own.
echo "restore_command = 'false'" >>"$work/postgresql.auto.conf"
touch "$work/recovery.signal"
mv "$work" "$data"
echo "$data: restored from $backup"
