//! What pods see of their clients, through every kind of Service: packets against predictions and against kube-proxy.
