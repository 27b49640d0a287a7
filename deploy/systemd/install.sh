#!/bin/sh
# Installs SPARK on SLATE as services of systemd, or renews it; the version is that of the tree which holds this file.
set -eu

usage() {
    cat <<'END'
usage: install.sh [--root DIRECTORY] [--python PROGRAM] [--ingest NAME]... [--rollups NAME]... [--no-api] [--no-migrate]

Run it as root, in the tree of the version that is to run; again for a new version, or when secrets were added. It

  - makes the user slate and copies this tree to /opt/slate, with an environment of its own (needs pip's network);
  - makes /etc/slate/slate.env if it is not there, and the files of the instances below;
  - hands every file /etc/slate/secrets/SERVICE/VARIABLE to SERVICE (migrate, maintain, ingest, rollups, api) as a
    credential, so that no secret is in an environment; an empty file counts as unset;
  - installs units and enables those of this host. It starts nothing: `systemctl start slate.target` does.

Settings that are there are never changed.

  --ingest NAME     an ingest worker: partitions as 0-3, or all, or standby, or a name of yours whose file
                    /etc/slate/ingest-NAME.env sets SLATE_WORKER_PARTITIONS; `all` unless given, `none` for none
  --rollups NAME    a rollups worker; `0` unless given, `none` for none
  --no-api          without the HTTP service
  --no-migrate      without slate-migrate and the daily maintenance, which one host of several does
  --root DIRECTORY  install below it, as no user and into no running system; nothing is enabled, no environment is made
  --python PROGRAM  for the environment; python3 unless given

    install.sh --ingest 0-3 --rollups 0
END
}

fail() { echo "install.sh: $1" >&2; exit 2; }

root='' python=python3 ingest='' rollups='' api=yes migrate=yes
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --no-api) api=no; shift; continue ;;
        --no-migrate) migrate=no; shift; continue ;;
        --root | --python | --ingest | --rollups) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        *) usage >&2; exit 2 ;;
    esac
    case $1 in
        --root) root=$2 ;;
        --python) python=$2 ;;
        --ingest | --rollups)
            case $2 in '' | *[!A-Za-z0-9_-]*) fail "$1: a name is of letters, digits, - and _" ;; esac
            if [ "$1" = --ingest ]; then ingest="$ingest $2"; else rollups="$rollups $2"; fi ;;
    esac
    shift 2
done
[ -n "$ingest" ] || ingest=all
[ -n "$rollups" ] || rollups=0
[ "$ingest" != ' none' ] || ingest=
[ "$rollups" != ' none' ] || rollups=
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root"
tree=$(cd "$(dirname "$0")/../.." && pwd)
umask 022

program="$root/opt/slate" settings="$root/etc/slate" units="$root/etc/systemd/system"

if [ -z "$root" ]; then
    getent passwd slate >/dev/null || useradd --system --no-create-home --shell /usr/sbin/nologin slate
fi

mkdir -p "$program" "$units" "$settings"
if [ "$tree" != "$(cd "$program" && pwd)" ]; then
    for one in connectors flows sql deploy realtime; do
        rm -rf "$program/$one.new"
        (umask 077 && cp -R "$tree/$one" "$program/$one.new")
        rm -rf "${program:?}/$one"
        mv "$program/$one.new" "$program/$one"
    done
    # Settings and secrets of a Compose stack in this tree are nobody's business there.
    rm -rf "$program/deploy/container/compose.env" "$program/deploy/container/secrets"
    chmod -R go+rX "$program/connectors" "$program/flows" "$program/sql" "$program/deploy" "$program/realtime"
    find "$program" -name __pycache__ -type d -prune -exec rm -rf {} +
fi
if [ -z "$root" ]; then
    [ -x "$program/.venv/bin/python" ] || "$python" -m venv "$program/.venv"
    "$program/.venv/bin/pip" install --quiet --require-hashes --requirement "$program/deploy/container/requirements.txt"
    for site in "$program"/.venv/lib/python3*/site-packages; do echo /opt/slate >"$site/slate.pth"; done
    install -m 0755 "$program/deploy/container/slate" "$program/.venv/bin/slate"
    if command -v npm >/dev/null; then
        (cd "$program/realtime/api" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --silent)
    else
        echo "without npm the page has no charts"
    fi
fi

[ -e "$settings/slate.env" ] || install -m 0600 "$tree/deploy/systemd/slate.env.example" "$settings/slate.env"

instance_file() { # service, name, port, further lines
    file="$settings/$1-$2.env"
    [ -e "$file" ] && return
    (umask 077 && : >"$file")
    {
        echo "# Of slate-$1@$2 only; stronger than slate.env and $1.env."
        echo "SLATE_METRICS_PORT=$3"
        [ -z "$4" ] || echo "$4"
    } >"$file"
}

port=19090
for name in $ingest; do
    more=
    case $name in
        *[!0-9-]*) more="# Empty is all; a list is possible, as 0-3,7.
SLATE_WORKER_PARTITIONS=" ;;
    esac
    instance_file ingest "$name" "$port" "$more"
    port=$((port + 1))
done
port=19190
for name in $rollups; do
    instance_file rollups "$name" "$port" ''
    port=$((port + 1))
done

services=
[ "$migrate" = no ] || services="migrate maintain"
[ -z "$ingest" ] || services="$services ingest"
[ -z "$rollups" ] || services="$services rollups"
[ "$api" = no ] || services="$services api"
missing=
for service in $services; do
    unit=slate-$service.service
    case $service in ingest | rollups) unit=slate-$service@.service ;; esac
    secrets="$settings/secrets/$service"
    mkdir -p "$secrets" "$units/$unit.d"
    chmod 0700 "$settings/secrets" "$secrets"
    {
        echo "# Written by install.sh, of the files in /etc/slate/secrets/$service; run it again when there are others."
        echo "[Service]"
        for path in "$secrets"/*; do
            [ -f "$path" ] || continue
            name=${path##*/}
            case $name in *[!A-Z0-9_]*) fail "$path: a secret's file has the name of its variable" ;; esac
            chmod 0600 "$path"
            echo "LoadCredential=$name:/etc/slate/secrets/$service/$name"
            echo "Environment=${name}_FILE=%d/$name"
        done
    } >"$units/$unit.d/secrets.conf"
    wanted="SLATE_DB_PASSWORD NATS_URL"
    [ "$service" != maintain ] || wanted=SLATE_DB_PASSWORD
    for name in $wanted; do
        [ -f "$secrets/$name" ] || missing="$missing /etc/slate/secrets/$service/$name"
    done
done

cp "$tree"/deploy/systemd/slate-*.service "$tree"/deploy/systemd/slate-*.timer "$tree"/deploy/systemd/slate.target "$units/"
if [ -z "$root" ]; then
    systemctl daemon-reload
    enabled=slate.target
    [ "$migrate" = no ] || enabled="$enabled slate-migrate.service slate-maintain.timer"
    for name in $ingest; do enabled="$enabled slate-ingest@$name.service"; done
    for name in $rollups; do enabled="$enabled slate-rollups@$name.service"; done
    [ "$api" = no ] || enabled="$enabled slate-api.service"
    # shellcheck disable=SC2086 # a list of names
    systemctl enable --quiet $enabled
fi

echo "Installed. Settings: /etc/slate/slate.env"
for path in $missing; do echo "Not there yet: $path"; done
echo "Then: install.sh again if secrets were added, and systemctl start slate.target"
