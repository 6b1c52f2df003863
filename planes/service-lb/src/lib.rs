//! Services in the kernel of a node: what kube-proxy does, and the client kept where it cannot.
