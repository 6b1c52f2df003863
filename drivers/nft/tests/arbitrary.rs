//! Whatever a socket brings: no panic, and what is understood is written as it was read.

#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use headwater_nft::{
    Batch, Element, Family, Field, Key, Kind, Mark, Name, Port, Proto, Set, Table, Tuple, Verdict, fuzz,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn field(kind: Kind) -> BoxedStrategy<Field> {
    match kind {
        Kind::Ipv4 => any::<std::net::Ipv4Addr>().prop_map(Field::from).boxed(),
        Kind::Ipv6 => any::<std::net::Ipv6Addr>().prop_map(Field::from).boxed(),
        Kind::Proto => any::<u8>().prop_map(|number| Proto(number).into()).boxed(),
        Kind::Port => any::<u16>().prop_map(|port| Port(port).into()).boxed(),
        Kind::Mark => any::<u32>().prop_map(|mark| Mark(mark).into()).boxed(),
        Kind::Ether => any::<[u8; 6]>().prop_map(Field::Ether).boxed(),
    }
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let kind = prop::sample::select(vec![Kind::Ipv4, Kind::Ipv6, Kind::Proto, Kind::Port, Kind::Mark, Kind::Ether]);
    vec(kind, 1..=4)
}

fn tuple(kinds: &[Kind]) -> impl Strategy<Value = Tuple> + use<> {
    kinds.iter().map(|kind| field(*kind)).collect::<Vec<_>>().prop_map(|fields| fields.into_iter().collect())
}

fn key(kinds: &[Kind]) -> BoxedStrategy<Key> {
    if kinds.len() == 1 {
        return tuple(kinds).prop_map(Key::from).boxed();
    }
    prop_oneof![
        tuple(kinds).prop_map(Key::from),
        (tuple(kinds), tuple(kinds)).prop_map(|(start, end)| Key::range(start, end)),
    ]
    .boxed()
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let chain = || "[!-~]{1,255}".prop_map(|text| Name::new(&text).unwrap());
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Continue),
        Just(Verdict::Return),
        chain().prop_map(Verdict::Jump),
        chain().prop_map(Verdict::Goto),
    ]
}

fn set_with_elements() -> impl Strategy<Value = (Set, Vec<Element>)> {
    let table = Table::new(Family::Inet, Name::new("t").unwrap());
    let name = Name::new("s").unwrap();
    (kinds(), kinds(), 0..3).prop_flat_map(move |(keys, data, which)| {
        let (set, element) = match which {
            0 => (Set::plain(&table, name.clone(), &keys), key(&keys).prop_map(Element::member).boxed()),
            1 => (
                Set::verdict_map(&table, name.clone(), &keys),
                (key(&keys), verdict()).prop_map(|(key, verdict)| Element::verdict(key, verdict)).boxed(),
            ),
            _ => (
                Set::map(&table, name.clone(), &keys, &data),
                (key(&keys), tuple(&data)).prop_map(|(key, data)| Element::fields(key, data)).boxed(),
            ),
        };
        (Just(set.unwrap()), vec(element, 1..200))
    })
}

fn read(set: &Set, bytes: &[u8]) -> Vec<Element> {
    let mut found = Vec::new();
    for message in headwater_nft::decode::messages(bytes).flatten() {
        assert_eq!(headwater_nft::decode::elements(set, &message, &mut found), Ok(0));
    }
    found
}

proptest! {
    #[test]
    fn elements_of_any_set_are_read_as_they_were_written((set, elements) in set_with_elements()) {
        let mut batch = Batch::new();
        for element in &elements {
            batch.add(&set, element).unwrap();
        }
        prop_assert_eq!(read(&set, batch.encode(1).bytes()), elements);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
    }

    #[test]
    fn no_damage_to_a_message_makes_it_panic(
        (set, elements) in set_with_elements(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut batch = Batch::new();
        for element in elements.iter().take(5) {
            batch.add(&set, element).unwrap();
        }
        let mut bytes = batch.encode(7).bytes().to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        fuzz(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        fuzz(&bytes);
    }
}
