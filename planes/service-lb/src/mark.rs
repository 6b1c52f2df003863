//! Marks of packets and connections that go by the tunnel.
//!
//! ```text
//!  31 .. 29 | 28 ........... 16 | 15 ........ 0
//!  kind     | index of the peer | 0x1857
//! ```
//!
//! Other programs' marks are left alone: a packet has one of these only while it goes by the tunnel, and a connection
//! when it came by it. The magic keeps off the bits 0x4000 and 0x8000 of kube-proxy and kubelet.

/// Asks for masquerading, as kube-proxy's does (`--iptables-masquerade-bit 14`).
pub(crate) const MASQUERADE: u32 = 0x4000;

/// Mask of [`MAGIC`].
pub(crate) const OURS: u32 = 0xffff;
pub(crate) const MAGIC: u32 = 0x1857;

/// Mask of the kinds.
pub(crate) const KIND: u32 = 0xe000_0000;
/// A client's packet, from the node that took it.
pub(crate) const KIND_FORWARD: u32 = 0;
/// The same, passed on by a node that does not know its connection, to one that had its place before.
pub(crate) const KIND_SECOND: u32 = 0x2000_0000;
/// Passed on once more, for the last time.
pub(crate) const KIND_THIRD: u32 = 0x4000_0000;
/// An endpoint's reply, to the node that took the client's packet.
pub(crate) const KIND_REPLY: u32 = 0x6000_0000;
/// A client's packet, back to the node that took it: the connection may be one that it serves by itself.
pub(crate) const KIND_BACK: u32 = 0x8000_0000;

pub(crate) const KINDS: [u32; 5] = [KIND_FORWARD, KIND_SECOND, KIND_THIRD, KIND_REPLY, KIND_BACK];

/// Original direction of connections that came by the tunnel, in conntrack: a node may route a client's packets and
/// serve them as well.
pub(crate) const ZONE: u16 = 18_519;

/// A connection whose replies go to the client directly.
pub(crate) const DIRECT: u32 = MAGIC;

/// Values of `places` for endpoints of this node, and for those without a tunnel.
pub(crate) const PLACE_HERE: u32 = 1;
pub(crate) const PLACE_FAR: u32 = 2;

/// Most peers that a mark can name, from 1.
pub(crate) const MOST_PEERS: u16 = 0x1fff;

pub(crate) fn of_peer(index: u16, kind: u32) -> u32 {
    kind | u32::from(index & MOST_PEERS) << 16 | MAGIC
}

pub(crate) const SECOND_MAC: &str = "02:48:00:00:00:02";
pub(crate) const THIRD_MAC: &str = "02:48:00:00:00:03";
pub(crate) const REPLY_MAC: &str = "02:48:00:00:00:04";

pub(crate) const BACK_MAC: &str = "02:48:00:00:00:05";

/// Packets of these kinds have an Ethernet source that names the kind; the others that of the sending node.
pub(crate) const FROM_PEER_MAC: [(u32, &str); 4] =
    [(KIND_SECOND, SECOND_MAC), (KIND_THIRD, THIRD_MAC), (KIND_REPLY, REPLY_MAC), (KIND_BACK, BACK_MAC)];
