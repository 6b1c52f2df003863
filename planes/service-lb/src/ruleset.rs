//! The constant rules: chains, and the sets and maps that they read. Services are only elements of these.
//!
//! ```text
//!  prerouting  -310  raw        a kept Service's packet -> its place -> this node | far | a peer (untracked, marked)
//!              -150  mangle     the same at the node's own addresses, for connections that begin;
//!                               arrivals by tunnel remember their way back; replies take it
//!              -100  nat        address, protocol, port -> policy -> pick an endpoint -> dnat
//!               -90  unserved   what is a Service's, and was not translated: refused or dropped
//!  input       -150  unrouted   what has no way through the tunnel waits for it
//!  output      -310  raw        the tunnel's own packets are not tracked
//!              -150  mangle     replies of endpoints in this node's network take their way back
//!              -100  nat, -90 unserved
//!  postrouting -150  mangle     TCP segments fit into the tunnel
//!               100  nat        masquerade what is marked, and endpoints that reach themselves
//! ```
//!
//! One table for each family of addresses, and one for the tunnel device. Scratch register of the first packet is
//! `meta priority`, which the kernel sets anew when it routes: marks of other programs survive.

use std::fmt::Write as _;

use headwater_model::nat::Family;

use crate::mark::{self, FROM_PEER_MAC};

/// Name of the tables, in the families `ip`, `ip6` and `netdev`.
pub(crate) const TABLE: &str = "headwater-services";

/// Sizes of tables of nodes, as `headwater_service_nat` makes them.
pub(crate) const TABLE_SIZES: [u32; 4] = [1024, 4096, 16_384, 65_536];

/// So that every node puts a flow into the same place.
const HASH_SEED: u32 = 0x4857;

/// Clients that are remembered for `sessionAffinity`, over all Services of a family.
const STICKY_ENTRIES: u32 = 262_144;

/// Which endpoints of a port a packet may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pool {
    /// Any usable one.
    Any,
    /// On this node.
    Here,
    /// On nodes to which there is no tunnel.
    Far,
}

impl Pool {
    pub(crate) const ALL: [Self; 3] = [Self::Any, Self::Here, Self::Far];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Here => "here",
            Self::Far => "far",
        }
    }

    /// Positions of a pool's endpoints in `svc_to` begin here.
    pub(crate) fn offset(self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Here => 0x1_0000,
            Self::Far => 0x2_0000,
        }
    }
}

/// By what a frontend is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Door {
    /// Address, protocol and port.
    Address,
    /// Protocol and port, at every address for NodePorts.
    NodePort,
}

impl Door {
    pub(crate) const ALL: [Self; 2] = [Self::Address, Self::NodePort];

    /// What the names of its maps and chains begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Address => "svc",
            Self::NodePort => "np",
        }
    }
}

/// Chains that are made when the first element needs them, and stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pick {
    /// One of so many, at random.
    Random { door: Door, pool: Pool, endpoints: u32 },
    /// The one that the client had, for so many seconds after its last connection; or one by its address.
    Sticky { door: Door, pool: Pool, endpoints: u32, seconds: u32 },
    /// What a sticky one begins with: the client is known.
    Again { door: Door, seconds: u32 },
    /// Remembers the client. Its one rule does not come as text: see [`crate::remember`].
    Remember { door: Door, seconds: u32 },
}

impl Pick {
    /// The chain, and those that it names, which come first.
    pub(crate) fn with_needs(self) -> impl Iterator<Item = Self> {
        let needs = match self {
            Self::Sticky { door, seconds, .. } => {
                [Some(Self::Remember { door, seconds }), Some(Self::Again { door, seconds })]
            }
            _ => [None, None],
        };
        needs.into_iter().flatten().chain([self])
    }

    pub(crate) fn chain(self) -> String {
        match self {
            Self::Random { door, pool, endpoints } => format!("{}_{}_{endpoints}", door.prefix(), pool.name()),
            Self::Sticky { door, pool, endpoints, seconds } => {
                format!("{}_{}_{endpoints}_for_{seconds}", door.prefix(), pool.name())
            }
            Self::Again { door, seconds } => format!("{}_again_{seconds}", door.prefix()),
            Self::Remember { door, seconds } => format!("{}_remember_{seconds}", door.prefix()),
        }
    }

    fn rules(self, words: &Words) -> String {
        let saddr = words.saddr;
        match self {
            Self::Random { door, pool, endpoints } => format!(
                "meta priority set numgen random mod {endpoints} offset {}\ngoto {}_to",
                pool.offset(),
                door.prefix()
            ),
            Self::Sticky { door, pool, endpoints, seconds } => {
                let (prefix, key, offset) = (door.prefix(), words.key(door), pool.offset());
                format!(
                    "meta priority set {saddr} . {key} map @{prefix}_sticky jump {prefix}_again_{seconds}\n\
                     meta priority set jhash {saddr} mod {endpoints} seed {HASH_SEED:#x} offset {offset}\n\
                     meta priority set {key} . meta priority map @{prefix}_slot\n\
                     jump {prefix}_remember_{seconds}\n\
                     goto {prefix}_to"
                )
            }
            Self::Again { door, seconds } => {
                format!("jump {}_remember_{seconds}\n{}", door.prefix(), words.dnat(door))
            }
            Self::Remember { .. } => String::new(),
        }
    }
}

/// How a family's packets are spelled.
struct Words {
    family: &'static str,
    address: &'static str,
    saddr: &'static str,
    daddr: &'static str,
}

impl Words {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self { family: "ip", address: "ipv4_addr", saddr: "ip saddr", daddr: "ip daddr" },
            Family::V6 => Self { family: "ip6", address: "ipv6_addr", saddr: "ip6 saddr", daddr: "ip6 daddr" },
        }
    }

    fn key(&self, door: Door) -> String {
        match door {
            Door::Address => format!("{} . meta l4proto . th dport", self.daddr),
            Door::NodePort => "meta l4proto . th dport".to_owned(),
        }
    }

    fn key_type(&self, door: Door) -> String {
        match door {
            Door::Address => format!("{} . inet_proto . inet_service", self.address),
            Door::NodePort => "inet_proto . inet_service".to_owned(),
        }
    }

    fn dnat(&self, door: Door) -> String {
        format!(
            "meta l4proto {{ tcp, udp, sctp }} dnat {} to {} . meta priority map @{}_to",
            self.family,
            self.key(door),
            door.prefix()
        )
    }
}

/// What the rules are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) device: String,
    pub(crate) port: u16,
    /// Family of the nodes' own addresses.
    pub(crate) underlay: Family,
    /// Of packets inside.
    pub(crate) mtu: u32,
}

/// Rules of one family of addresses, to be loaded as one transaction: over rules that are there, elements stay.
pub(crate) fn family(family: Family, tunnel: Option<&Tunnel>, picks: &[Pick]) -> String {
    let words = Words::of(family);
    let mut out = String::new();
    let chains = chains(family, &words, tunnel, picks);
    let head = format!("{} {TABLE}", words.family);
    let _ = writeln!(out, "table {head} {{\n{}", sets(&words));
    // Chains first, without rules: they name each other, and rules of before must go.
    for (name, hook, _) in &chains {
        let hook = hook.map(|hook| format!(" type {hook}; ")).unwrap_or_default();
        let _ = writeln!(out, "\tchain {name} {{{hook}}}");
    }
    out.push_str("}\n");
    let with_rules = || chains.iter().filter(|(_, _, rules)| !rules.is_empty());
    for (name, _, _) in with_rules() {
        let _ = writeln!(out, "flush chain {head} {name}");
    }
    let _ = writeln!(out, "table {head} {{");
    for (name, _, rules) in with_rules() {
        let _ = writeln!(out, "\tchain {name} {{\n{}\t}}", indent(rules));
    }
    out.push_str("}\n");
    out
}

/// More chains to pick endpoints by, for a table that is there.
pub(crate) fn more(family: Family, picks: &[Pick]) -> String {
    let words = Words::of(family);
    let head = format!("{} {TABLE}", words.family);
    let mut out = String::new();
    for pick in picks {
        let name = pick.chain();
        let _ = writeln!(out, "add chain {head} {name}");
    }
    let with_rules = || picks.iter().filter(|pick| !matches!(pick, Pick::Remember { .. }));
    for pick in with_rules() {
        let _ = writeln!(out, "flush chain {head} {}", pick.chain());
    }
    let _ = writeln!(out, "table {head} {{");
    for pick in with_rules() {
        let _ = writeln!(out, "\tchain {} {{\n{}\t}}", pick.chain(), indent(&pick.rules(&words)));
    }
    out.push_str("}\n");
    out
}

/// The table of the tunnel device: marks become the peers' MAC addresses.
pub(crate) fn device(tunnel: &Tunnel) -> String {
    let device = &tunnel.device;
    let kinds: String = FROM_PEER_MAC
        .iter()
        .map(|(kind, mac)| {
            format!("\t\tmeta mark & {:#x} == {kind:#x} ether saddr set {mac} meta mark set 0 accept\n", mark::KIND)
        })
        .collect();
    format!(
        "table netdev {TABLE} {{\n\
         \tmap macs {{ type mark : ether_addr; }}\n\
         \tchain sent {{ }}\n\
         \tchain egress {{ type filter hook egress device \"{device}\" priority 0; }}\n\
         }}\n\
         flush chain netdev {TABLE} sent\n\
         flush chain netdev {TABLE} egress\n\
         table netdev {TABLE} {{\n\
         \tchain sent {{\n{kinds}\t\tmeta mark set 0 accept\n\t}}\n\
         \tchain egress {{\n\
         \t\tether daddr set meta mark map @macs goto sent\n\
         \t\tdrop\n\
         \t}}\n}}\n"
    )
}

fn indent(rules: &str) -> String {
    rules
        .lines()
        .map(str::trim)
        .filter(|rule| !rule.is_empty())
        .fold(String::new(), |out, rule| out + "\t\t" + rule + "\n")
}

fn sets(words: &Words) -> String {
    let address = words.address;
    let mut out = String::new();
    let mut set = |text: String| {
        let _ = writeln!(out, "\t{text}");
    };
    for (name, flags) in [
        ("node_addresses", ""),
        ("cluster_ips", ""),
        ("vteps", ""),
        ("pods", "flags interval; "),
        ("cluster_cidrs", "flags interval; "),
        ("service_cidrs", "flags interval; "),
    ] {
        set(format!("set {name} {{ type {address}; {flags}}}"));
    }
    set(format!("set hairpin {{ type {address} . {address}; }}"));
    set(format!("set ranged {{ type {}; }}", words.key_type(Door::Address)));
    set(format!("set ranges {{ type {} . {address}; flags interval; }}", words.key_type(Door::Address)));
    set("map places { type mark . classid : mark; }".to_owned());
    set("map via { type ether_addr : mark; }".to_owned());
    set("set same_peer { type ether_addr . mark; }".to_owned());
    let inner = if words.family == "ip" { &ICMP_V4 } else { &ICMP_V6 };
    set(format!("map icmp_keep {{ typeof {} : verdict; }}", inner.key));
    set(format!("map icmp_table {{ typeof {} : mark; }}", inner.key));
    for door in Door::ALL {
        let (prefix, key) = (door.prefix(), words.key_type(door));
        for name in ["", "_any", "_here", "_far", "_refused", "_keep", "_back", "_past_by"] {
            set(format!("map {prefix}{name} {{ type {key} : verdict; }}"));
        }
        set(format!("map {prefix}_to {{ type {key} . classid : {address} . inet_service; }}"));
        set(format!("map {prefix}_slot {{ type {key} . classid : classid; }}"));
        set(format!("map {prefix}_table {{ type {key} : mark; }}"));
        set(format!("map {prefix}_past {{ type {key} . classid : mark; }}"));
        set(format!(
            "map {prefix}_sticky {{ type {address} . {key} : classid; size {STICKY_ENTRIES}; flags dynamic,timeout; }}"
        ));
    }
    out
}

/// Where an ICMP error has the packet that it is about.
struct Inner {
    guard: &'static str,
    /// Its source address, protocol and source port: the Service.
    key: &'static str,
    /// Its destination address and port, as `saddr . sport` of the client's packets.
    client: &'static str,
    client_address: &'static str,
}

/// Of a packet without IP options.
const ICMP_V4: Inner = Inner {
    guard: "ip protocol icmp icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    key: "@th,160,32 . @th,136,8 . @th,224,16",
    client: "@th,192,32 . @th,240,16",
    client_address: "@th,192,32",
};

/// Of a packet without extension headers.
const ICMP_V6: Inner = Inner {
    // The other name of the protocol is one of /etc/protocols, which small images do not have.
    guard: "meta l4proto icmpv6 icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, \
            parameter-problem }",
    key: "@th,128,128 . @th,112,8 . @th,384,16",
    client: "@th,256,128 . @th,400,16",
    client_address: "@th,256,128",
};

type Chain = (String, Option<&'static str>, String);

fn chains(family: Family, words: &Words, tunnel: Option<&Tunnel>, picks: &[Pick]) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let (saddr, daddr) = (words.saddr, words.daddr);
    let (masquerade, magic) = (mark::MASQUERADE, mark::MAGIC);
    // Leaves, before who names them.
    chains.push(("reject_it".into(), None, "meta l4proto tcp reject with tcp reset\nreject".into()));
    for door in Door::ALL {
        let prefix = door.prefix();
        chains.push((format!("{prefix}_to"), None, words.dnat(door)));
    }
    chains.extend(picks.iter().map(|pick| (pick.chain(), None, pick.rules(words))));
    for door in Door::ALL {
        let (prefix, key) = (door.prefix(), words.key(door));
        let marked = format!("meta mark set meta mark | {masquerade:#x}");
        for pool in [Pool::Any, Pool::Here] {
            let name = pool.name();
            let pick = format!("{key} vmap @{prefix}_{name}");
            chains.push((format!("{prefix}_to_{name}"), None, pick.clone()));
            chains.push((format!("{prefix}_to_{name}_masquerade"), None, format!("{marked}\n{pick}")));
            chains.push((
                format!("{prefix}_to_{name}_off_cluster"),
                None,
                format!("{saddr} != @cluster_cidrs goto {prefix}_to_{name}_masquerade\n{pick}"),
            ));
        }
        let inside =
            format!("{saddr} @pods goto {prefix}_to_any\nfib saddr type local goto {prefix}_to_any_masquerade");
        chains.push((format!("{prefix}_local"), None, format!("{inside}\n{key} vmap @{prefix}_here")));
        chains.push((format!("{prefix}_masqueraded"), None, format!("{inside}\ngoto {prefix}_to_any_masquerade")));
        chains.push((
            format!("{prefix}_kept"),
            None,
            format!("{inside}\nmeta priority {HERE} {key} vmap @{prefix}_here\n{marked}\n{key} vmap @{prefix}_far"),
        ));
    }
    chains.push((
        "services".into(),
        None,
        format!(
            "{key} @ranged {key} . {saddr} != @ranges drop\n\
             {key} vmap @svc\n\
             {daddr} @node_addresses {np} vmap @np",
            key = words.key(Door::Address),
            np = words.key(Door::NodePort)
        ),
    ));
    chains.push((
        "not_served".into(),
        None,
        format!(
            "ct status dnat return\n\
             {} vmap @svc_refused\n\
             {daddr} @node_addresses {} vmap @np_refused\n\
             {daddr} @cluster_ips goto reject_it\n\
             {daddr} @service_cidrs drop",
            words.key(Door::Address),
            words.key(Door::NodePort)
        ),
    ));
    let mut nat = String::from("jump services");
    let mut unserved = String::from("ct state new jump not_served");
    let mut postrouting = String::new();
    if let Some(tunnel) = tunnel {
        let device = &tunnel.device;
        keeping(&mut chains, family, words, tunnel);
        nat = format!(
            "meta mark & {:#x} == {magic:#x} accept\nct mark & {:#x} == {magic:#x} goto arrivals\niifname \"{device}\" goto arrivals\n{nat}",
            mark::OURS,
            mark::OURS
        );
        unserved = format!(
            "ct state {{ established, untracked }} accept\nmeta mark & {:#x} == {magic:#x} accept\niifname \"{device}\" ct state new ct status & dnat == 0 goto nowhere\n{unserved}",
            mark::OURS
        );
        let size = tunnel.mtu - if family == Family::V4 { 40 } else { 60 };
        let syn = "tcp flags & (syn | rst) == syn tcp option maxseg size set";
        // Without its route a reply would reach the client past the node that tracks the connection.
        postrouting = format!(
            "oifname != \"{device}\" meta mark & {:#x} == {magic:#x} drop\n\
             oifname \"{device}\" {syn} {size}\nct mark {:#x} {syn} {size}",
            mark::OURS,
            mark::DIRECT
        );
    }
    chains.push(("prerouting_nat".into(), Some("nat hook prerouting priority -100"), nat));
    chains.push(("output_nat".into(), Some("nat hook output priority -100"), "jump services".into()));
    chains.push(("prerouting_unserved".into(), Some("filter hook prerouting priority -90"), unserved));
    chains.push((
        "output_unserved".into(),
        Some("filter hook output priority -90"),
        "ct state new jump not_served".into(),
    ));
    chains.push(("postrouting_mangle".into(), Some("filter hook postrouting priority -150"), postrouting));
    chains.push((
        "postrouting_nat".into(),
        Some("nat hook postrouting priority 100"),
        format!(
            "meta mark & {masquerade:#x} != 0 meta mark set meta mark ^ {masquerade:#x} masquerade fully-random\n\
             ct status dnat {saddr} . {daddr} @hairpin masquerade fully-random"
        ),
    ));
    chains
}

/// What `meta priority` says of a kept packet that stays on this node.
const HERE: &str = "0:1";
/// The same of one whose endpoints have no tunnel.
const FAR: &str = "0:2";

/// Before conntrack, which makes every packet `invalid`, a chain leaves the node's own addresses alone. Only what is a
/// Service's comes so far: it is the lookup of a route that other packets are spared.
const NOT_OWN: &str = "ct state invalid fib daddr type local accept\n";

/// Chains that send packets through the tunnel, and take them out.
fn keeping(chains: &mut Vec<Chain>, family: Family, words: &Words, tunnel: &Tunnel) {
    let (saddr, daddr) = (words.saddr, words.daddr);
    let (ours, magic, kind) = (mark::OURS, mark::MAGIC, mark::KIND);
    let device = &tunnel.device;
    let (reply, second, third, taken) = (mark::REPLY_MAC, mark::SECOND_MAC, mark::THIRD_MAC, mark::BACK_MAC);
    chains.push((
        "placed".into(),
        None,
        format!(
            "meta mark {} meta priority set {HERE} meta mark set 0 accept\n\
             meta mark {} meta priority set {FAR} meta mark set 0 accept\n\
             meta l4proto != udp ct mark set meta mark\n\
             notrack accept",
            mark::PLACE_HERE,
            mark::PLACE_FAR
        ),
    ));
    let inner = if family == Family::V4 { &ICMP_V4 } else { &ICMP_V6 };
    for size in TABLE_SIZES {
        for (sticky, hash, inner_hash) in [
            ("", format!("{} . th sport", words.saddr), inner.client),
            ("_sticky", words.saddr.to_owned(), inner.client_address),
        ] {
            let place = |hash: &str| format!("meta priority set jhash {hash} mod {size} seed {HASH_SEED:#x}");
            let placed = "meta mark set meta mark . meta priority map @places goto placed\nmeta mark set 0";
            for door in Door::ALL {
                let (prefix, key) = (door.prefix(), words.key(door));
                let guard = match door {
                    Door::Address => format!("{NOT_OWN}{key} @ranged {key} . {saddr} != @ranges drop\n"),
                    Door::NodePort => String::new(),
                };
                chains.push((
                    format!("{prefix}_keep_{size}{sticky}"),
                    None,
                    format!(
                        "{saddr} @pods accept\n{guard}meta mark set {key} map @{prefix}_table\n{}\n{placed}",
                        place(&hash)
                    ),
                ));
                // Where the flow's place was before: at most two nodes are asked.
                chains.push((
                    format!("{prefix}_past_{size}{sticky}"),
                    None,
                    format!("{}\nmeta mark set {key} . meta priority map @{prefix}_past goto passed_on", place(&hash)),
                ));
            }
            chains.push((
                format!("icmp_keep_{size}{sticky}"),
                None,
                format!("{NOT_OWN}meta mark set {} map @icmp_table\n{}\n{placed}", inner.key, place(inner_hash)),
            ));
        }
    }
    chains.push((
        "passed_on".into(),
        None,
        format!(
            "ether saddr {second} meta mark set meta mark ^ {:#x}\n\
             ether saddr . meta mark @same_peer meta mark set meta mark ^ {:#x}\n\
             ct mark set meta mark accept",
            mark::KIND_SECOND ^ mark::KIND_THIRD,
            mark::KIND_SECOND ^ mark::KIND_BACK,
        ),
    ));
    // Not a connection's first packet, and of no connection that this node knows: it may be known where the flow's
    // place was before, or at the node that took it from outside.
    chains.push((
        "strange".into(),
        None,
        format!(
            "ether saddr {{ {third}, {taken} }} return\n\
             {} vmap @svc_past_by\n\
             {} vmap @np_past_by\n\
             meta mark set ether saddr map @via\n\
             meta mark & {kind:#x} == {:#x} meta mark set meta mark ^ {:#x} ct mark set meta mark accept",
            words.key(Door::Address),
            words.key(Door::NodePort),
            mark::KIND_REPLY,
            mark::KIND_REPLY ^ mark::KIND_BACK,
        ),
    ));
    chains.push(("back_direct".into(), None, format!("ct mark set {:#x} accept", mark::DIRECT)));
    chains.push(("back_via".into(), None, "ct mark set ether saddr map @via accept".into()));
    chains.push((
        "arrived".into(),
        None,
        format!(
            "ether saddr {reply} accept\n\
             meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn ct state {{ new, invalid }} jump strange\n\
             ct state new {} vmap @svc_back\n\
             ct state new {} vmap @np_back",
            words.key(Door::Address),
            words.key(Door::NodePort),
        ),
    ));
    let back = format!(
        "ct direction reply ct mark & {:#x} == {:#x} meta mark set ct mark",
        kind | ours,
        mark::KIND_REPLY | magic
    );
    let onward: String = [mark::KIND_SECOND, mark::KIND_THIRD, mark::KIND_BACK]
        .iter()
        .map(|passed| {
            format!(
                "ct direction original ct mark & {:#x} == {:#x} meta mark set ct mark accept\n",
                kind | ours,
                passed | magic
            )
        })
        .collect();
    // At its own addresses a node is a client too, and chooses source ports: what is a Service's can only be told from
    // replies by conntrack. TCP connections keep their node; UDP has no first packet. What conntrack cannot place in a
    // connection is not for the node's own TCP, which would answer it by RST.
    chains.push((
        "own_address".into(),
        None,
        format!(
            "ct state new jump own_keep\n\
             meta l4proto udp ct direction original ct status & dnat == 0 jump own_keep\n\
             meta l4proto tcp ct state invalid meta mark set {} map @svc_table drop\n\
             meta l4proto tcp ct state invalid {daddr} @node_addresses meta mark set {} map @np_table drop",
            words.key(Door::Address),
            words.key(Door::NodePort)
        ),
    ));
    chains.push((
        "own_keep".into(),
        None,
        format!(
            "{} vmap @svc_keep\n{daddr} @node_addresses {} vmap @np_keep",
            words.key(Door::Address),
            words.key(Door::NodePort)
        ),
    ));
    chains.push((
        "tunnelled".into(),
        None,
        format!(
            "{onward}iifname \"{device}\" return\n{back} return\n\
             ct direction original ct mark & {:#x} == {:#x} ct mark != {:#x} meta mark set ct mark accept",
            kind | ours,
            mark::KIND_FORWARD | magic,
            mark::DIRECT
        ),
    ));
    // What most packets meet comes first: connections that have nothing to do with the tunnel.
    chains.push((
        "prerouting_mangle".into(),
        Some("filter hook prerouting priority -150"),
        format!(
            "ct state untracked accept\n\
             ct mark & {ours:#x} == {magic:#x} jump tunnelled\n\
             iifname \"{device}\" goto arrived\n\
             meta l4proto tcp ct state established accept\n\
             fib daddr type local jump own_address\n\
             meta priority {HERE} meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn \
             ct state {{ new, invalid }} jump strange_here"
        ),
    ));
    chains.push((
        "strange_here".into(),
        None,
        format!("{} vmap @svc_past_by\n{} vmap @np_past_by", words.key(Door::Address), words.key(Door::NodePort)),
    ));
    chains.push(("output_mangle".into(), Some("route hook output priority -150"), back));
    // What is for the tunnel has no route there, as after someone deletes the device or a rule: the node's own TCP must
    // not hear of it, and answer by RST. It comes again.
    chains.push((
        "input_unrouted".into(),
        Some("filter hook input priority -150"),
        format!("meta mark & {ours:#x} == {magic:#x} drop"),
    ));
    chains.push((
        "arrivals".into(),
        None,
        format!(
            "{key} @ranged {key} . {saddr} != @ranges drop\n\
             {key} vmap @svc_here\n\
             {} vmap @np_here",
            words.key(Door::NodePort),
            key = words.key(Door::Address),
        ),
    ));
    // A first packet may come again when all nodes know the same endpoints; a later one of no connection never fits.
    chains.push((
        "nowhere".into(),
        None,
        "meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset\ndrop".into(),
    ));
    let mut vteps = String::new();
    if tunnel.underlay == family {
        vteps = format!("udp dport {} fib daddr type local jump underlay\n", tunnel.port);
        // Each flow has a source port of its own outside, too: tracked, it would be there twice.
        chains.push((
            "output_raw".into(),
            Some("filter hook output priority -310"),
            format!("udp dport {} {daddr} @vteps notrack", tunnel.port),
        ));
    }
    chains.push(("underlay".into(), None, format!("{saddr} != @vteps drop\nnotrack accept")));
    chains.push((
        "from_tunnel".into(),
        None,
        format!("ether saddr {reply} fib saddr type local accept\nether saddr {reply} notrack accept\nether saddr {taken} accept\nct original zone set {}", mark::ZONE),
    ));
    chains.push((
        "prerouting_raw".into(),
        Some("filter hook prerouting priority -310"),
        format!(
            "{vteps}iifname \"{device}\" goto from_tunnel\n\
             {} vmap @svc_keep\n\
             {} {} vmap @icmp_keep",
            words.key(Door::Address),
            inner.guard,
            inner.key,
        ),
    ));
}
