//! Who is there and who leads: one trait over memory, a static list and, later, etcd, ZooKeeper and Kubernetes.
