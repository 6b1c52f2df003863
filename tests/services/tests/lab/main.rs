//! Packets through Services, programmed by kube-proxy and by Headwater.

mod stories;
mod table;
mod why;
