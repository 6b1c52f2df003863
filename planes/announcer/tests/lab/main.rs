//! Nodes, a client and a stranger on one segment, each in a network namespace. Needs root, arping, ndisc6 and tcpdump.

mod answers;
mod failover;
mod segment;
mod service;
