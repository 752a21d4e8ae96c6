#!/bin/sh
# Builds our benchmark and the peers, then measures one against the other in pairs.
#
#   tests/peers/run.sh stream w2 --threads 1 --pairs 5
#   tests/peers/run.sh stream w3 --processes 2 --peer timely --json
#   tests/peers/run.sh rpc r2 --outstanding 256 --peer tarpc
#
# All arguments go to pairs.py; `run.sh --help` shows them. AFFLUX_PEERS_BUILD=0 skips the builds.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
case " $* " in
*" --help "* | *" -h "*) exec python3 "$here/pairs.py" --help ;;
esac
if [ "${AFFLUX_PEERS_BUILD:-1}" != 0 ]; then
    (cd "$root" && cargo build --release --quiet -p afflux-bench) >&2
    (cd "$here" && cargo build --release --quiet) >&2
fi
exec python3 "$here/pairs.py" "$@"
