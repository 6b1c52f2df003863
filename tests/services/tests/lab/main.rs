//! Packets through Services, programmed by kube-proxy and by Headwater.

mod table;
mod why;
