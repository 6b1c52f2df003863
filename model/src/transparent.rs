//! What the kernel of a host needs so that a gateway there can connect from its clients' addresses (`transparent`).
//!
//! An endpoint answers the address that it sees, which is the client's. Packets to an address of somebody else are passed
//! on, or dropped; these rules find those that belong to such a connection of the gateway, mark them, and keep them here.
//! `headwater node --transparent` makes them; [`commands`] are the same by hand.
//!
//! Source: Documentation/networking/tproxy.rst of Linux, nft(8) `socket`.

/// Reason of the finding that says who asks for it.
pub const ASKED: &str = "Transparent";

/// Mark of packets that belong to such a connection, in the bits of [`MASK`]. It holds neither kube-proxy's and kubelet's
/// bits 0x4000 and 0x8000, nor is it the mark of the tunnel between nodes (0x1857).
pub const MARK: u32 = 0x1858;

/// The bits of a mark that count; others are left as they are.
pub const MASK: u32 = 0xffff;

/// Number of the routing table that has one route: everything is for this host.
pub const TABLE: u32 = 18_520;

/// Place of the routing rule: behind that of the tunnel (90), before that of own addresses where it is at 100.
pub const PRIORITY: u32 = 91;

/// Name of the table of nftables, in the family `inet`.
pub const NFT_TABLE: &str = "headwater-transparent";

/// The table, in the language of nft; loading it again changes nothing.
///
/// The chain comes after those of priority `mangle`, whose marks it would otherwise lose.
pub fn ruleset() -> String {
    let keep = !MASK;
    format!(
        "add table inet {NFT_TABLE}\n\
         flush table inet {NFT_TABLE}\n\
         table inet {NFT_TABLE} {{\n\
         \tchain prerouting {{\n\
         \t\ttype filter hook prerouting priority -145; policy accept;\n\
         \t\tmeta l4proto {{ tcp, udp }} socket transparent 1 socket wildcard 0 \
         meta mark set meta mark & {keep:#x} | {MARK:#x}\n\
         \t}}\n\
         }}\n"
    )
}

/// Everything as commands of a shell, to be run as root; one line each, but for the first, which is a document.
pub fn commands() -> String {
    let mut text = format!("nft -f - <<'END'\n{}END\n", ruleset());
    for family in ["-4", "-6"] {
        text += &format!(
            "ip {family} rule add priority {PRIORITY} fwmark {MARK:#x}/{MASK:#x} lookup {TABLE}\n\
             ip {family} route replace local default dev lo table {TABLE}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_nobody_elses() {
        assert_eq!(MARK & !MASK, 0);
        assert_eq!(MARK & 0xc000, 0, "kube-proxy and kubelet");
        assert_ne!(MARK, 0x1857, "the tunnel between nodes");
    }
}
