#!/usr/bin/env bash
# A real ZooKeeper, alone: see common.sh. Ticks of 500 ms allow sessions of 1 to 10 s.
. "$(dirname "$0")/common.sh"

ports="client"

jar=/usr/share/java/zookeeper.jar

need() {
    command -v java >/dev/null && [ -f $jar ] || install_packages zookeeper
}

run() {
    cat >"$dir/zoo.cfg" <<CFG
tickTime=500
dataDir=$dir/data
clientPort=$(port_of client)
clientPortAddress=127.0.0.1
4lw.commands.whitelist=*
CFG
    exec java -Xmx256m -Dzookeeper.admin.enableServer=false -cp $jar \
        org.apache.zookeeper.server.quorum.QuorumPeerMain "$dir/zoo.cfg"
}

healthy() {
    exec 3<>"/dev/tcp/127.0.0.1/$(port_of client)"
    printf ruok >&3
    [ "$(cat <&3)" = imok ]
}

ready() {
    wait_until healthy
}

address() {
    echo "127.0.0.1:$(port_of client)"
}

main "$@"
