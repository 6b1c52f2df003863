//! The sets and maps of the tables, as the kernel's elements are written and read.

use std::collections::BTreeMap;

use headwater_model::nat::Family;
use headwater_nft as nft;
use nft::{Kind, Name, Set, Table};

use crate::ruleset::{Door, TABLE};

/// One set of a family's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Id {
    ClusterIps,
    NodeAddresses,
    Vteps,
    Hairpin,
    Ranged,
    Ranges,
    Places,
    Via,
    /// Peers, and the marks by which places were theirs before.
    SamePeer,
    /// Of the tunnel device, in the table of its own; held with the sets of IPv4.
    Macs,
    IcmpKeep,
    IcmpTable,
    /// What becomes of a frontend's packets.
    Policy(Door),
    /// The chains that pick an endpoint of a pool.
    PickAny(Door),
    PickHere(Door),
    PickFar(Door),
    Refused(Door),
    /// Kept Services: what sends a packet to its place.
    Keep(Door),
    /// Their tables of nodes.
    Table(Door),
    /// How replies go back.
    Back(Door),
    /// Where places were before.
    PastBy(Door),
    Past(Door),
    /// Endpoints by position in their pool, or by slot.
    To(Door),
    Slot(Door),
    /// Clients of `sessionAffinity`; the kernel fills it.
    Sticky(Door),
}

impl Id {
    /// Those whose elements are written here.
    pub(crate) const ELEMENTS: [Self; 36] = {
        use Door::{Address, NodePort};
        [
            Self::ClusterIps,
            Self::NodeAddresses,
            Self::Vteps,
            Self::Hairpin,
            Self::Ranged,
            Self::Ranges,
            Self::Places,
            Self::Via,
            Self::SamePeer,
            Self::Macs,
            Self::IcmpKeep,
            Self::IcmpTable,
            Self::Policy(Address),
            Self::Policy(NodePort),
            Self::PickAny(Address),
            Self::PickAny(NodePort),
            Self::PickHere(Address),
            Self::PickHere(NodePort),
            Self::PickFar(Address),
            Self::PickFar(NodePort),
            Self::Refused(Address),
            Self::Refused(NodePort),
            Self::Keep(Address),
            Self::Keep(NodePort),
            Self::Table(Address),
            Self::Table(NodePort),
            Self::Back(Address),
            Self::Back(NodePort),
            Self::PastBy(Address),
            Self::PastBy(NodePort),
            Self::Past(Address),
            Self::Past(NodePort),
            Self::To(Address),
            Self::To(NodePort),
            Self::Slot(Address),
            Self::Slot(NodePort),
        ]
    };

    fn name(self) -> String {
        let of = |door: Door, rest: &str| format!("{}{rest}", door.prefix());
        match self {
            Self::ClusterIps => "cluster_ips".into(),
            Self::NodeAddresses => "node_addresses".into(),
            Self::Vteps => "vteps".into(),
            Self::Hairpin => "hairpin".into(),
            Self::Ranged => "ranged".into(),
            Self::Ranges => "ranges".into(),
            Self::Places => "places".into(),
            Self::Via => "via".into(),
            Self::SamePeer => "same_peer".into(),
            Self::Macs => "macs".into(),
            Self::IcmpKeep => "icmp_keep".into(),
            Self::IcmpTable => "icmp_table".into(),
            Self::Policy(door) => of(door, ""),
            Self::PickAny(door) => of(door, "_any"),
            Self::PickHere(door) => of(door, "_here"),
            Self::PickFar(door) => of(door, "_far"),
            Self::Refused(door) => of(door, "_refused"),
            Self::Keep(door) => of(door, "_keep"),
            Self::Table(door) => of(door, "_table"),
            Self::Back(door) => of(door, "_back"),
            Self::PastBy(door) => of(door, "_past_by"),
            Self::Past(door) => of(door, "_past"),
            Self::To(door) => of(door, "_to"),
            Self::Slot(door) => of(door, "_slot"),
            Self::Sticky(door) => of(door, "_sticky"),
        }
    }

    fn declared(self, table: &Table, address: Kind) -> Set {
        let name = Name::new(&self.name()).expect("names of sets are short and plain");
        let door = |door: Door| -> Vec<Kind> {
            match door {
                Door::Address => vec![address, Kind::Proto, Kind::Port],
                Door::NodePort => vec![Kind::Proto, Kind::Port],
            }
        };
        let and = |mut kinds: Vec<Kind>, more: Kind| {
            kinds.push(more);
            kinds
        };
        let frontend = door(Door::Address);
        let set = match self {
            Self::ClusterIps | Self::NodeAddresses | Self::Vteps => Set::plain(table, name, &[address]),
            Self::Hairpin => Set::plain(table, name, &[address, address]),
            Self::Ranged => Set::plain(table, name, &frontend),
            Self::Ranges => Set::plain(table, name, &and(frontend, address)),
            Self::Places => Set::map(table, name, &[Kind::Mark, Kind::Mark], &[Kind::Mark]),
            Self::Via => Set::map(table, name, &[Kind::Ether], &[Kind::Mark]),
            Self::SamePeer => Set::plain(table, name, &[Kind::Ether, Kind::Mark]),
            Self::Macs => Set::map(&table_of(nft::Family::Netdev), name, &[Kind::Mark], &[Kind::Ether]),
            Self::IcmpKeep => Set::verdict_map(table, name, &frontend),
            Self::IcmpTable => Set::map(table, name, &frontend, &[Kind::Mark]),
            Self::Policy(at)
            | Self::PickAny(at)
            | Self::PickHere(at)
            | Self::PickFar(at)
            | Self::Refused(at)
            | Self::Keep(at)
            | Self::Back(at)
            | Self::PastBy(at) => Set::verdict_map(table, name, &door(at)),
            Self::Table(at) => Set::map(table, name, &door(at), &[Kind::Mark]),
            Self::Past(at) => Set::map(table, name, &and(door(at), Kind::Mark), &[Kind::Mark]),
            Self::To(at) => Set::map(table, name, &and(door(at), Kind::Mark), &[address, Kind::Port]),
            Self::Slot(at) => Set::map(table, name, &and(door(at), Kind::Mark), &[Kind::Mark]),
            Self::Sticky(at) => {
                let key: Vec<Kind> = [address].into_iter().chain(door(at)).collect();
                Set::map(table, name, &key, &[Kind::Mark])
            }
        };
        set.expect("keys and data are below 64 bytes")
    }
}

/// All sets of one family's table.
#[derive(Debug)]
pub(crate) struct Sets(BTreeMap<Id, Set>);

impl Sets {
    pub(crate) fn of(family: Family) -> Self {
        let (spelled, address) = match family {
            Family::V4 => (nft::Family::Ip, Kind::Ipv4),
            Family::V6 => (nft::Family::Ip6, Kind::Ipv6),
        };
        let table = table_of(spelled);
        let all = Id::ELEMENTS.into_iter().chain(Door::ALL.map(Id::Sticky));
        Self(all.map(|id| (id, id.declared(&table, address))).collect())
    }

    pub(crate) fn set(&self, id: Id) -> &Set {
        &self.0[&id]
    }
}

pub(crate) fn table_of(family: nft::Family) -> Table {
    Table::new(family, Name::new(TABLE).expect("the name is short and plain"))
}
