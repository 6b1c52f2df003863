//! The one rule that is not loaded as text: it remembers something in a map that the packet path fills.
//!
//! `nft` 1.0.6 cannot write `update @map { a . b . c : d }` when the key is longer than 16 bytes, as every key with an
//! IPv6 address is.

use std::time::Duration;

use crate::types::{Family, Kind, Set, SetData};
use crate::wire::{self, Writer};

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_PRIORITY: u32 = 2;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_DYNSET_SET_NAME: u16 = 1;
const NFTA_DYNSET_OP: u16 = 3;
const NFTA_DYNSET_SREG_KEY: u16 = 4;
const NFTA_DYNSET_SREG_DATA: u16 = 5;
const NFTA_DYNSET_TIMEOUT: u16 = 6;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
/// The first register of 4 bytes.
const NFT_REG32_00: u32 = 8;

/// What is read from the packet; it takes the kind's width, filled up to 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Source address, of the family of the table.
    SourceAddress,
    /// Destination address.
    DestinationAddress,
    /// Protocol of the transport.
    Protocol,
    /// Destination port.
    DestinationPort,
    /// `meta priority`.
    Priority,
}

impl Load {
    const fn kind(self, family: Family) -> Kind {
        match self {
            Self::SourceAddress | Self::DestinationAddress => {
                if matches!(family, Family::Ip6) {
                    Kind::Ipv6
                } else {
                    Kind::Ipv4
                }
            }
            Self::Protocol => Kind::Proto,
            Self::DestinationPort => Kind::Port,
            Self::Priority => Kind::Mark,
        }
    }

    fn write(self, writer: &mut Writer, family: Family, register: u32) {
        let payload = |base, offset, length| (base, offset, length);
        let v6 = matches!(family, Family::Ip6);
        let from = match self {
            Self::SourceAddress if v6 => payload(NFT_PAYLOAD_NETWORK_HEADER, 8, 16),
            Self::SourceAddress => payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 4),
            Self::DestinationAddress if v6 => payload(NFT_PAYLOAD_NETWORK_HEADER, 24, 16),
            Self::DestinationAddress => payload(NFT_PAYLOAD_NETWORK_HEADER, 16, 4),
            Self::DestinationPort => payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
            Self::Protocol | Self::Priority => {
                let key = if self == Self::Protocol { NFT_META_L4PROTO } else { NFT_META_PRIORITY };
                return expression(writer, "meta", |writer| {
                    number(writer, NFTA_META_KEY, key);
                    number(writer, NFTA_META_DREG, register);
                });
            }
        };
        let (base, offset, length) = from;
        expression(writer, "payload", |writer| {
            number(writer, NFTA_PAYLOAD_DREG, register);
            number(writer, NFTA_PAYLOAD_BASE, base);
            number(writer, NFTA_PAYLOAD_OFFSET, offset);
            number(writer, NFTA_PAYLOAD_LEN, length);
        });
    }
}

/// `update @map { key timeout T : data }`: an entry that is there lives on for as long again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remember {
    /// A map with the flags `dynamic` and `timeout`, in a table of `ip` or `ip6`.
    pub map: Set,
    /// What its key is made of.
    pub key: Vec<Load>,
    /// What is remembered.
    pub data: Load,
    /// From the last packet; whole milliseconds.
    pub timeout: Duration,
}

impl Remember {
    /// Whether key and data are those of the map.
    pub(crate) fn fits(&self) -> bool {
        let family = self.map.table().family;
        let kinds: Vec<Kind> = self.key.iter().map(|load| load.kind(family)).collect();
        kinds == self.map.key() && *self.map.data() == SetData::Fields([self.data.kind(family)].into())
    }

    /// The rule's message, behind its header.
    pub(crate) fn write(&self, writer: &mut Writer, chain: &str) {
        let table = self.map.table();
        writer.text(NFTA_RULE_TABLE, table.name.as_str());
        writer.text(NFTA_RULE_CHAIN, chain);
        let list = writer.nest(NFTA_RULE_EXPRESSIONS | wire::NLA_F_NESTED);
        let mut register = NFT_REG32_00;
        for load in self.key.iter().chain([&self.data]) {
            load.write(writer, table.family, register);
            register += load.kind(table.family).width().div_ceil(4) as u32;
        }
        let timeout = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        expression(writer, "dynset", |writer| {
            writer.text(NFTA_DYNSET_SET_NAME, self.map.name().as_str());
            number(writer, NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
            number(writer, NFTA_DYNSET_SREG_KEY, NFT_REG32_00);
            number(writer, NFTA_DYNSET_SREG_DATA, register - 1);
            writer.attribute(NFTA_DYNSET_TIMEOUT, &timeout.to_be_bytes());
        });
        writer.close(list);
    }
}

/// Names the chain whose rules are to go.
pub(crate) fn write_chain(writer: &mut Writer, table: &str, chain: &str) {
    writer.text(NFTA_RULE_TABLE, table);
    writer.text(NFTA_RULE_CHAIN, chain);
}

fn expression(writer: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    let element = writer.nest(wire::NFTA_LIST_ELEM | wire::NLA_F_NESTED);
    writer.text(NFTA_EXPR_NAME, name);
    let inner = writer.nest(NFTA_EXPR_DATA | wire::NLA_F_NESTED);
    data(writer);
    writer.close(inner);
    writer.close(element);
}

fn number(writer: &mut Writer, kind: u16, value: u32) {
    writer.attribute(kind, &value.to_be_bytes());
}
