#!/usr/bin/env bash
# A store that speaks S3, `moto` of PyPI: see common.sh. `start` prints its endpoint; the bucket `checkpoints`
# is there, any key opens it. It keeps objects in memory: `stop` and `kill` lose them. It honours
# `If-None-Match: *` on PUT (412), though it looks first and writes then.
. "$(dirname "$0")/common.sh"

ports="http"

version=5.2.5
cache=${XDG_CACHE_HOME:-$HOME/.cache}/afflux-tests/moto-$version

need() {
    [ -f "$cache/complete" ] && return
    python3 -c 'import venv, ensurepip' 2>/dev/null || install_packages python3-venv
    mkdir -p "$cache"
    # Two that come at once do it one after the other.
    exec 9>"$cache/lock"
    flock 9
    if [ ! -f "$cache/complete" ]; then
        # Not its extra `server`, which brings what every other service of AWS needs.
        { python3 -m venv "$cache/venv" &&
            "$cache/venv/bin/pip" install -q "moto[s3]==$version" flask==3.1.3 flask-cors==6.0.5; } >&2
        touch "$cache/complete"
    fi
    exec 9>&-
}

run() {
    exec "$cache/venv/bin/moto_server" -H 127.0.0.1 -p "$(port_of http)"
}

make_bucket() {
    "$cache/venv/bin/python" -c 'import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="PUT")).close()' "$(address)/checkpoints"
}

ready() {
    wait_until make_bucket
}

address() {
    echo "http://127.0.0.1:$(port_of http)"
}

main "$@"
