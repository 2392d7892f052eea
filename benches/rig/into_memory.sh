#!/usr/bin/env bash
# into_memory.sh URL ADMIN_PORT ALL OUT: ask once in each session of whose `Cookie` lines ALL is full, and write the first thousand of
# them to OUT when the gateway has them all in memory.
set -euo pipefail
url=$1 admin=$2 all=$3 out=$4
count=$(wc -l <"$all")
until (echo >"/dev/tcp/127.0.0.1/$admin") 2>/dev/null; do sleep 0.1; done
script=$(mktemp)
trap 'rm -f "$script"' EXIT
cat >"$script" <<'LUA'
local requests, next = {}, 0
init = function(arguments)
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, { Host = "localhost", Cookie = line:match("^Cookie: (.*)$") })
  end
end
request = function() next = next % #requests + 1; return requests[next] end
LUA
cached() { curl -s "http://127.0.0.1:$admin/metrics" | sed -n 's/^portcullis_session_cache_entries \([0-9]*\)$/\1/p'; }
# Moka counts what it holds a little later.
until [ "$(cached)" -ge $((count * 99 / 100)) ]; do wrk -t1 -c64 -d10s -s "$script" "$url" -- "$all" >/dev/null; done
head -n 1000 "$all" >"$out.new"
mv "$out.new" "$out"
