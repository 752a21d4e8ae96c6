# What the scripts of this folder share. Each is called so:
#
#   etcd.sh start DIR     starts the server with its data below DIR, or starts it again where it was;
#                         prints its address when it answers
#   etcd.sh stop DIR      ends it (`kill`: at once, as a power cut would)
#   etcd.sh pause DIR     stops its process without ending it; `resume` lets it go on
#
# It listens on 127.0.0.1, on free ports that DIR/port remembers; DIR/log is what it says.
set -eu

start_seconds_max=60

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# The port number NAME of the server in DIR, chosen at its first start.
port_of() {
    [ -f "$dir/port.$1" ] || free_port >"$dir/port.$1"
    cat "$dir/port.$1"
}

install_packages() {
    local sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    { $sudo apt-get update -q && $sudo apt-get -o DPkg::Lock::Timeout=400 install -q -y --no-install-recommends "$@"; } >&2
}

# Waits until the command succeeds, as long as the server lives.
wait_until() {
    local begun=$SECONDS
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "$(cat "$dir/pid")" 2>/dev/null || [ $((SECONDS - begun)) -gt $start_seconds_max ]; then
            echo "the server did not start; the end of $dir/log:" >&2
            tail -n 20 "$dir/log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

end_with() {
    local pid
    pid=$(cat "$dir/pid" 2>/dev/null) || return 0
    kill -CONT "$pid" 2>/dev/null || true
    kill "-$1" "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -f "$dir/pid"
}

main() {
    [ $# -eq 2 ] || { echo "usage: $0 start|stop|kill|pause|resume DIR" >&2; exit 2; }
    mkdir -p "$2"
    dir=$(cd "$2" && pwd)
    case $1 in
        start)
            need
            # Before anything runs beside this: two that chose a port at one time would differ.
            for name in $ports; do port_of "$name" >/dev/null; done
            run </dev/null >>"$dir/log" 2>&1 &
            echo $! >"$dir/pid"
            ready
            address
            ;;
        stop) end_with TERM ;;
        kill) end_with KILL ;;
        pause) kill -STOP "$(cat "$dir/pid")" ;;
        resume) kill -CONT "$(cat "$dir/pid")" ;;
        *) echo "unknown: $1" >&2; exit 2 ;;
    esac
}
