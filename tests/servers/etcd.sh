#!/usr/bin/env bash
# A real etcd, of one member: see common.sh.
. "$(dirname "$0")/common.sh"

ports="client peer"

need() {
    command -v etcd >/dev/null && command -v etcdctl >/dev/null || install_packages etcd-server etcd-client
}

run() {
    local client peer
    client=http://127.0.0.1:$(port_of client)
    peer=http://127.0.0.1:$(port_of peer)
    exec etcd --name one --data-dir "$dir/data" --logger zap --log-level warn \
        --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "one=$peer"
}

ready() {
    wait_until env ETCDCTL_API=3 etcdctl --endpoints "http://127.0.0.1:$(port_of client)" get /ready
}

address() {
    echo "127.0.0.1:$(port_of client)"
}

main "$@"
