#!/usr/bin/env bash
# A real RabbitMQ, of one node: see common.sh. `start` prints the address for AMQP; user and password are
# guest. Its queues that are durable outlive `stop` and `kill`.
#   rabbitmq.sh ctl DIR ARGUMENTS   runs rabbitmqctl against the server in DIR
. "$(dirname "$0")/common.sh"

ports="amqp dist epmd"

# Not the one of /usr/sbin, which insists on a user of its own.
bin=/usr/lib/rabbitmq/bin

need() {
    [ -x $bin/rabbitmq-server ] || install_packages rabbitmq-server
    mkdir -p "$dir/home"
    printf 'listeners.tcp.1 = 127.0.0.1:%s\nlog.console.level = warning\n' "$(port_of amqp)" >"$dir/rabbitmq.conf"
    echo '[].' >"$dir/enabled_plugins"
}

surroundings() {
    export HOME=$dir/home RABBITMQ_NODENAME="afflux$(port_of dist)@localhost" RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf
    export RABBITMQ_MNESIA_BASE=$dir/mnesia RABBITMQ_LOG_BASE=$dir/logs RABBITMQ_LOGS=-
    export RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins RABBITMQ_PID_FILE=$dir/erlang.pid
    export RABBITMQ_DIST_PORT ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT
    RABBITMQ_DIST_PORT=$(port_of dist)
    ERL_EPMD_PORT=$(port_of epmd)
}

run() {
    surroundings
    # Erlang leaves what it could not finish where it was started.
    cd "$dir" || exit 1
    exec $bin/rabbitmq-server
}

listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$(port_of amqp)")
}

ready() {
    wait_until listens
    # The shell around it would end alone.
    cp "$dir/erlang.pid" "$dir/pid"
}

address() {
    echo "127.0.0.1:$(port_of amqp)"
}

# The port mapper of Erlang, which the server starts and leaves behind, is found by its port.
end_epmd() {
    local process
    for process in /proc/[0-9]*; do
        if [ "$(tr '\0' ' ' 2>/dev/null <"$process/environ" | grep -c "ERL_EPMD_PORT=$(port_of epmd)")" = 1 ] &&
            [ "$(cat "$process/comm" 2>/dev/null)" = epmd ]; then
            kill "${process#/proc/}" 2>/dev/null || true
        fi
    done
}

case ${1-} in
    ctl)
        dir=$(cd "$2" && pwd)
        surroundings
        shift 2
        exec $bin/rabbitmqctl "$@"
        ;;
    *)
        main "$@"
        case $1 in stop | kill) end_epmd ;; esac
        ;;
esac
