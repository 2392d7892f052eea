#!/usr/bin/env bash
# Start Portcullis for a side-by-side rig: write its configuration from the RIG_* environment, start it in the foreground, and
# sign the users in over HTTP beside it. Everything that ships on is on: access log, metrics, limits, revocation checks.
#
#   run.sh portcullis session sat --cmd "bash $PWD/benches/rig/start.sh" --creds creds --tokens 1000 --ref nginx
#
# PORTCULLIS names the program (default: the release build of this tree), PORTCULLIS_UNDER a program to run it under (callgrind),
# PORTCULLIS_USERS how many users there are (default 1000), PORTCULLIS_STORE the store (default: embedded), PORTCULLIS_MODE how browsers
# carry sessions (default: server). With PORTCULLIS_LIVE, a folder that `cargo bench --bench live` wrote, all sessions of its store are in
# memory before the rig begins.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=${PORTCULLIS:-$here/../../target/release/portcullis}
users=${PORTCULLIS_USERS:-1000}
# Sessions are kept from run to run: a thousand sign-ins cost half a minute of argon2.
kept=$RIG_WORK/portcullis
mkdir -p "$kept"

access='"authenticated"'
login="[login.local]
users = \"$kept/users.toml\"
argon2_memory_kib = 7168
argon2_passes = 5"
live=${PORTCULLIS_LIVE:-}
memory=
[ -z "$live" ] || memory="cache_entries = 1200000"
store=${PORTCULLIS_STORE:-embedded:${live:-$kept}/data}
secret=
if [[ $store == redis* ]]; then
  [ -s "$kept/secret" ] || (umask 077 && head -c 32 /dev/urandom | base64 >"$kept/secret")
  secret="secret = { file = \"$kept/secret\" }"
fi
token= accept=
case $RIG_AUTH in
none) access='"public"' ;;
session) ;;
rs256 | es256 | eddsa | hs256)
  algorithm=${RIG_AUTH^^}
  [ "$RIG_AUTH" != eddsa ] || algorithm=EdDSA
  source="jwks = \"$RIG_WORK/jwks.json\""
  [ "$RIG_AUTH" != hs256 ] || source="secret = { file = \"$RIG_WORK/hs256.secret\" }"
  accept='accept = ["token"]'
  token="[token]
issuer = \"https://issuer.test\"
audience = \"rig\"
algorithms = [\"$algorithm\"]
max_lifetime = \"4000days\"
$source"
  ;;
*) echo "start.sh: RIG_AUTH=$RIG_AUTH is not known" >&2; exit 2 ;;
esac

cat >"$RIG_RUN/gateway.toml" <<EOF
roles = ["user"]

[server]
listen  = "127.0.0.1:$RIG_PORT"
admin   = "127.0.0.1:$RIG_AUX_PORT"
workers = ${RIG_WORKERS:-1}

[tls]
certificate = "$RIG_CERT"
private_key = "$RIG_KEY"

[session]
mode = "${PORTCULLIS_MODE:-server}"
store = "$store"
$secret
idle_timeout = "12h"
max_age = "12h"
$memory

$login

$token

[identity_headers]
user = "X-Auth-User"

# One machine plays ten thousand clients, and holds them as long as the other proxies of the rig do.
[limits]
connections = 20000
connections_per_address = 20000
header_timeout = "300s"
idle_upstream_connections = 128

[log]
format = "json"

[upstream.back]
servers = ["http://$RIG_BACKEND"]

[[route]]
name = "all"
path = "/"
access = $access
$accept
upstream = "back"
EOF

if [ ! -s "$kept/users.toml" ]; then
  # One password for all: its hash is computed once.
  printf '[user]\n' >"$kept/users.toml"
  printf 'rig password for everybody' | "$program" user --config "$RIG_RUN/gateway.toml" add user00000 --role user --password-stdin >&2
  python3 -B "$here/users.py" "$kept/users.toml" "$users"
fi
if [ "$RIG_AUTH" = session ] && [ -n "$live" ]; then
  "$here/into_memory.sh" "https://127.0.0.1:$RIG_PORT/1k" "$RIG_AUX_PORT" "$live/creds" "$RIG_RUN/creds" &
elif [ "$RIG_AUTH" = session ]; then
  python3 -B "$here/sign_in.py" "https://127.0.0.1:$RIG_PORT" "$users" "$kept/creds" "$RIG_RUN/creds" &
fi
exec ${PORTCULLIS_UNDER:-} "$program" run --config "$RIG_RUN/gateway.toml"
