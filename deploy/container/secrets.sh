#!/bin/sh
# Makes the secrets of compose.yaml below secrets/, beside this file. What is there stays.
set -eu

case "${1-}" in
    '') ;;
    -h | --help)
        cat <<'END'
usage: secrets.sh

Makes passwords of PostgreSQL and NATS and the key of users' tokens (SLATE_JWT_SECRET) below secrets/, and empty files,
which count as unset, for what others give: OPENAI_REALTIME_API_KEY, UNITY_MCP_TOKEN, receivers of alerts. Write those
in before `docker compose up`. Containers run as users of their own and read the files by their mode, which Compose
keeps: so they are 0444 in a directory that only its owner may enter.
END
        exit 0 ;;
    *) echo "usage: secrets.sh" >&2; exit 2 ;;
esac
cd "$(dirname "$0")"
command -v openssl >/dev/null || { echo "secrets.sh: install openssl" >&2; exit 1; }
umask 077
mkdir -p secrets tls
chmod 0700 secrets
chmod 0755 tls

keep() { # name, and what is in it unless it is there
    [ -e "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"
    chmod 0444 "secrets/$1"
}
empty() {
    for name; do
        [ -e "secrets/$name" ] || : >"secrets/$name"
        chmod 0444 "secrets/$name"
    done
}

keep SLATE_DB_PASSWORD "$(openssl rand -hex 24)"
keep SLATE_JWT_SECRET "$(openssl rand -hex 32)"
if [ ! -e secrets/NATS_URL ]; then
    password=n$(openssl rand -hex 24)
    rm -f secrets/nats-users.conf
    keep nats-users.conf "user: slate, password: \"$password\""
    keep NATS_URL "nats://slate:$password@nats:4222"
fi
empty nats-users.conf OPENAI_REALTIME_API_KEY UNITY_MCP_TOKEN SLATE_ALERTMANAGER_URL SLATE_ALERT_WEBHOOK_URL \
    SLATE_ALERT_WEBHOOK_SECRET SLACK_WEBHOOK_URL PAGERDUTY_INTEGRATION_KEY
