//! Numbers of the protocol, and messages and attributes as bytes.
//!
//! All lengths and types are in the byte order of the machine, what nftables puts into attributes is big-endian.

// netlink.h
pub(crate) const NLMSG_HEADER: usize = 16;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_CAPPED: u16 = 0x100;
pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;
pub(crate) const NLMSGERR_ATTR_OFFS: u16 = 2;
pub(crate) const NLA_HEADER: usize = 4;
pub(crate) const NLA_F_NESTED: u16 = 0x8000;
pub(crate) const NLA_TYPE_MASK: u16 = 0x3fff;

// nfnetlink.h
pub(crate) const NFGEN_HEADER: usize = 4;
pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
pub(crate) const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(crate) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(crate) const NFNLGRP_NFTABLES: u32 = 7;
pub(crate) const NFNL_BATCH_GENID: u16 = 1;

// nf_tables.h
pub(crate) const NFT_MSG_NEWTABLE: u16 = message(0);
pub(crate) const NFT_MSG_DELTABLE: u16 = message(2);
pub(crate) const NFT_MSG_NEWRULE: u16 = message(6);
pub(crate) const NFT_MSG_DELRULE: u16 = message(8);
pub(crate) const NFT_MSG_NEWSETELEM: u16 = message(12);
pub(crate) const NFT_MSG_GETSETELEM: u16 = message(13);
pub(crate) const NFT_MSG_DELSETELEM: u16 = message(14);
pub(crate) const NFT_MSG_NEWGEN: u16 = message(15);
pub(crate) const NFT_MSG_GETGEN: u16 = message(16);
pub(crate) const NFTA_TABLE_NAME: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(crate) const NFTA_LIST_ELEM: u16 = 1;
pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(crate) const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(crate) const NFTA_DATA_VALUE: u16 = 1;
pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(crate) const NFTA_GEN_ID: u16 = 1;
pub(crate) const NFTA_GEN_PROC_PID: u16 = 2;
pub(crate) const NFTA_GEN_PROC_NAME: u16 = 3;

/// The type of a message of nftables.
pub(crate) const fn message(number: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | number
}

/// Verdicts by their numbers: those without a chain; `NFT_JUMP` and `NFT_GOTO` have one.
pub(crate) const NFT_CONTINUE: i32 = -1;
pub(crate) const NFT_JUMP: i32 = -3;
pub(crate) const NFT_GOTO: i32 = -4;
pub(crate) const NFT_RETURN: i32 = -5;
pub(crate) const NF_DROP: i32 = 0;
pub(crate) const NF_ACCEPT: i32 = 1;

/// Writes messages one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// Starts a message and returns where; its length is written by [`Writer::end`].
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        // Sequence, and the port, which the kernel fills in.
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        start
    }

    pub(crate) fn end(&mut self, start: usize) {
        let length = u32::try_from(self.bytes.len() - start).expect("a message has less than 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn set_sequence(&mut self, start: usize, sequence: u32) {
        self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        let now = u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]);
        self.bytes[start + 6..start + 8].copy_from_slice(&(now | flags).to_ne_bytes());
    }

    /// An attribute with a value.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.nest(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// An attribute with a text that ends in NUL.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let start = self.nest(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// Starts an attribute and returns where; [`Writer::close`] ends it. Attributes within it: `kind | NLA_F_NESTED`.
    pub(crate) fn nest(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0_u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    pub(crate) fn close(&mut self, start: usize) {
        let length =
            u16::try_from(self.bytes.len() - start).expect("lists are split before an attribute gets too long");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    pub(crate) fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
