#!/usr/bin/env bash
# Real MessagePack-RPC clients against a node: every unary method, notifications, errors, many calls in flight.
# Prints a line a client and test; the exit status is 1 if any of them failed.
#
#   tests/compat/run.sh            all clients, straight and through a second node
#   tests/compat/run.sh aio tiny   these only (old aio nvim tiny js lite)
#
# Clients are installed into target/compat, each into an environment of its own, and kept there.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
envs=$root/target/compat
scratch=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$scratch"
}
trap stop EXIT

need() {
    local packages=()
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
    command -v npm >/dev/null || packages+=(nodejs npm)
    [ ${#packages[@]} = 0 ] && return 0
    local sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q && $sudo apt-get install -q -y --no-install-recommends "${packages[@]}"
}

# python NAME PACKAGE…
python() {
    local name=$1
    shift
    [ -e "$envs/$name/ready" ] && return 0
    rm -rf "${envs:?}/$name"
    python3 -m venv "$envs/$name" &&
        "$envs/$name/bin/pip" install -q --disable-pip-version-check "$@" && touch "$envs/$name/ready"
}

npm_packages() {
    [ -e "$envs/npm/ready" ] && return 0
    mkdir -p "$envs/npm" && cd "$envs/npm" && echo '{"private":true}' >package.json &&
        npm install --no-audit --no-fund --silent msgpack5rpc@1.1.0 msgpack-rpc-lite@1.0.2 && touch ready
}

# node NAME ARGUMENT…: starts one, sets $address
node() {
    local name=$1 log=$scratch/$1.log
    shift
    "$root/target/debug/compat-server" node --set node.id="$name" --set log.format=json --set admin.listen= "$@" \
        2>"$log" >/dev/null &
    pids+=($!)
    for _ in $(seq 300); do
        address=$(sed -n 's/.*node started.*"address":"\([^"]*\)".*/\1/p; s/.*"address":"\([^"]*\)".*node started.*/\1/p' "$log" 2>/dev/null | head -1)
        [ -n "$address" ] && return 0
        sleep 0.1
    done
    echo "node $name did not start:" >&2
    cat "$log" >&2
    return 1
}

run() {
    case $1 in
        old) python old msgpack-rpc-python==0.4.1 tornado==4.5.3 msgpack-python==0.5.6 &&
            "$envs/old/bin/python" "$here/clients/msgpack_rpc_python.py" "$2" ;;
        aio) python aio aio-msgpack-rpc==0.2.0 && "$envs/aio/bin/python" "$here/clients/aio_msgpack_rpc_client.py" "$2" ;;
        nvim) python nvim pynvim==0.6.0 && "$envs/nvim/bin/python" "$here/clients/pynvim_session.py" "$2" ;;
        tiny) python tiny tinyrpc==1.1.7 msgpack && "$envs/tiny/bin/python" "$here/clients/tinyrpc_client.py" "$2" ;;
        js) (npm_packages) && NODE_PATH=$envs/npm/node_modules command node "$here/clients/msgpack5rpc.js" "$2" ;;
        lite) (npm_packages) && NODE_PATH=$envs/npm/node_modules command node "$here/clients/msgpack_rpc_lite.js" "$2" ;;
        *) echo "there is no client $1; there are: old aio nvim tiny js lite" >&2 && return 2 ;;
    esac
}

need || exit 1
cd "$root" || exit 1
cargo build -q --locked -p afflux-compat || exit 1
mkdir -p "$envs"
node server --set node.listen=127.0.0.1:0 || exit 1
server=$address
COMPAT_DOOR=1 node door --set node.listen=127.0.0.1:0 --set node.join="$server" || exit 1
door=$address

clients=("$@")
[ $# = 0 ] && clients=(old aio nvim tiny js lite)
failed=0
export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
for through in server door; do
    echo "== to the node that ${through/server/serves}" | sed 's/that door/that offers nothing itself/'
    for client in "${clients[@]}"; do
        run "$client" "${!through}" || failed=1
    done
done
[ $failed = 0 ] && echo "all clients agree" || echo "FAILED"
exit $failed
