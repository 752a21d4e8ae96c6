#!/usr/bin/env bash
# A real kube-apiserver over a real etcd: see common.sh. `start` prints the path of a kubeconfig whose user
# may do what the chart's Role allows and no more; admin.kubeconfig beside it may do everything.
#
# The server is built from its Go modules, once, into the cache: 5 to 15 minutes.
#   kube.sh built       says whether that has been done
#   kube.sh build       does it
. "$(dirname "$0")/common.sh"

ports="api"
version=v1.34.1
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/afflux-tests
binary=$cache/kube-apiserver-$version

build() {
    command -v go >/dev/null || install_packages golang
    mkdir -p "$cache"
    # The sums of all modules stand in go.sum.
    (cd "$here/kube-apiserver" && CGO_ENABLED=0 GOFLAGS=-mod=readonly \
        go build -ldflags "-s -w" -o "$binary.new" k8s.io/kubernetes/cmd/kube-apiserver) && mv "$binary.new" "$binary"
}

need() {
    command -v curl >/dev/null && command -v openssl >/dev/null || install_packages curl openssl ca-certificates
    [ -x "$binary" ] || build >&2
    "$here/etcd.sh" start "$dir/etcd" >"$dir/etcd.address"
    [ -f "$dir/key.pem" ] || openssl genrsa -out "$dir/key.pem" 2048 2>/dev/null
    cat >"$dir/tokens.csv" <<TOKENS
admin-token,admin,1,system:masters
node-token,afflux,2
TOKENS
}

run() {
    exec "$binary" --etcd-servers "http://$(cat "$dir/etcd.address")" \
        --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$(port_of api)" \
        --cert-dir "$dir/certs" --token-auth-file "$dir/tokens.csv" --authorization-mode RBAC \
        --service-account-key-file "$dir/key.pem" --service-account-signing-key-file "$dir/key.pem" \
        --service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.0.0.0/24 \
        --disable-admission-plugins ServiceAccount --endpoint-reconciler-type none
}

ask() {
    curl -sS -f -k -H "Authorization: Bearer admin-token" -H "Content-Type: application/json" \
        "https://127.0.0.1:$(port_of api)$1" "${@:2}"
}

# The Role of the chart, and its binding; there already after a restart.
role() {
    local rbac=/apis/rbac.authorization.k8s.io/v1/namespaces/default
    ask $rbac/roles/afflux >/dev/null 2>&1 || ask $rbac/roles -d '{"metadata":{"name":"afflux"},"rules":[
        {"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":["get","list","watch"]},
        {"apiGroups":["coordination.k8s.io"],"resources":["leases"],
         "verbs":["get","list","watch","create","update","delete"]}]}'
    ask $rbac/rolebindings/afflux >/dev/null 2>&1 || ask $rbac/rolebindings -d '{"metadata":{"name":"afflux"},
        "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"afflux"},
        "subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"afflux"}]}'
}

kubeconfig() {
    cat >"$dir/$1.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
current-context: test
clusters:
- name: test
  cluster:
    server: https://127.0.0.1:$(port_of api)
    certificate-authority: $dir/certs/apiserver.crt
contexts:
- name: test
  context: {cluster: test, user: $1, namespace: default}
users:
- name: $1
  user: {token: $1-token}
CONFIG
}

ready() {
    wait_until ask /readyz
    wait_until ask /api/v1/namespaces/default
    wait_until role
    kubeconfig node
    kubeconfig admin
}

address() {
    echo "$dir/node.kubeconfig"
}

case ${1-} in
    built) [ -x "$binary" ] ;;
    build) build ;;
    *)
        main "$@"
        case $1 in stop | kill) "$here/etcd.sh" "$1" "$dir/etcd" ;; esac
        ;;
esac
