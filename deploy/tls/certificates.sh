#!/bin/sh
# Makes a private authority and certificates for servers that it signs; run it where no server runs.
set -eu

usage() {
    cat <<'END'
usage: certificates.sh DIRECTORY NAME HOST[,HOST...] [DAYS]

Writes DIRECTORY/NAME.pem and NAME.key for a server that is reached as HOST (names or IP addresses), signed by
DIRECTORY/ca.pem, which is made with ca.key when it is not there. Without DAYS, a certificate is valid for 90 days;
the authority for ten years. SLATE_CA_FILE is a copy of ca.pem; ca.key stays here, where nobody else reads it.
To renew a certificate, run it again, and tell the server to read it again.

    certificates.sh /etc/slate/tls nats nats-1.example.com,10.0.0.5
END
}

case "${1-}" in -h | --help) usage; exit 0 ;; esac
if [ $# -lt 3 ] || [ $# -gt 4 ]; then usage >&2; exit 2; fi
directory=$1 name=$2 hosts=$3 days=${4-90}
case $name in ca | *[!A-Za-z0-9_-]* | '')
    echo "certificates.sh: NAME must be of letters, digits, - and _, and not ca" >&2; exit 2 ;;
esac
case $hosts in *[!A-Za-z0-9.:,*-]*)
    echo "certificates.sh: HOST must be a name or an address, several separated by commas" >&2; exit 2 ;;
esac
case $days in '' | *[!0-9]*) echo "certificates.sh: DAYS must be a number" >&2; exit 2 ;; esac
command -v openssl >/dev/null || { echo "certificates.sh: install openssl" >&2; exit 1; }

umask 077
mkdir -p "$directory"
cd "$directory"
work=$(mktemp -d ./making.XXXXXX)
trap 'rm -rf "$work"' EXIT

if [ ! -e ca.pem ]; then
    openssl ecparam -genkey -name prime256v1 -noout -out ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=SPARK on SLATE authority" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$work/ca.pem"
    chmod 644 "$work/ca.pem"
    mv "$work/ca.pem" ca.pem
fi

alternatives=
old_ifs=$IFS
IFS=,
for host in $hosts; do
    case $host in
        *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) kind=IP ;;
        *) kind=DNS ;;
    esac
    alternatives="${alternatives:+$alternatives,}$kind:$host"
done
IFS=$old_ifs

cat >"$work/extensions" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = $alternatives
END
openssl ecparam -genkey -name prime256v1 -noout -out "$work/key"
openssl req -new -key "$work/key" -subj "/CN=$name" -out "$work/request"
openssl x509 -req -in "$work/request" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -sha256 \
    -days "$days" -extfile "$work/extensions" -out "$work/pem" 2>/dev/null
chmod 644 "$work/pem"
mv "$work/key" "$name.key"
mv "$work/pem" "$name.pem"
echo "$directory/$name.pem: $alternatives, $days days"
