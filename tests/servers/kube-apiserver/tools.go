//go:build tools

// Package tools names what is built: see kube.sh.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
