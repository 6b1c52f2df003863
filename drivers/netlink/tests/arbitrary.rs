//! Whatever a socket brings: no panic, and what is understood is written as it was read.

#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use headwater_netlink::fuzz;
use proptest::collection::vec;
use proptest::prelude::*;

/// The inputs of the fuzz target: messages of a kernel.
fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/conntrack_decode");
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).filter(|bytes| !bytes.is_empty()).collect()
}

/// Messages with right lengths: kind, payload.
fn messages(messages: Vec<(u16, Vec<u8>)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, payload) in messages {
        let length = u32::try_from(16 + payload.len()).unwrap();
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
    }

    #[test]
    fn no_payload_of_any_kind_of_message_makes_it_panic(
        all in vec((prop_oneof![0_u16..120, 0x100_u16..0x110], vec(any::<u8>(), 0..200)), 1..4),
    ) {
        fuzz(&messages(all));
    }

    #[test]
    fn no_damage_to_a_message_makes_it_panic(
        which in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let corpus = corpus();
        let mut bytes = which.get(&corpus).clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        fuzz(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        fuzz(&bytes);
    }
}
