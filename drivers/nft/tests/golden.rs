//! Bytes: the same as those of nft 1.0.6, as strace shows them (x86_64; the header is in the machine's byte order).

#![cfg(target_endian = "little")]
#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use headwater_nft::decode::{self, Answer};
use headwater_nft::{Batch, Element, Family, Field, Key, Kind, Mark, Name, Port, Proto, Set, Table, Tuple, Verdict};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn table(family: Family) -> Table {
    Table::new(family, name("services"))
}

fn address(text: &str) -> Field {
    Field::Addr(text.parse().unwrap())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The payload of the list of elements of the only message.
fn list(batch: Batch) -> Vec<u8> {
    let encoded = batch.encode(0);
    let message = decode::messages(encoded.bytes()).nth(1).unwrap().unwrap();
    let body = &message.payload[4..];
    let mut at = 0;
    loop {
        let length = usize::from(u16::from_ne_bytes(body[at..at + 2].try_into().unwrap()));
        if body[at + 2..at + 4] == [3, 0x80] {
            return body[at + 4..at + length].to_vec();
        }
        at += length.next_multiple_of(4);
    }
}

/// Sets of each kind, an element, and the list of elements that nft sends to add it.
fn added_by_nft() -> Vec<(Set, Element, Vec<u8>)> {
    let (four, six) = (table(Family::Ip), table(Family::Ip6));
    let service = |address| [address, Kind::Proto, Kind::Port];
    let endpoint = |address| [address, Kind::Proto, Kind::Port, Kind::Mark];
    let goto = Verdict::Goto(name("n_2"));
    let mut cases = Vec::new();
    let mut case = |set: Set, element: Element, bytes: &str| cases.push((set, element, hex(bytes)));
    case(
        Set::verdict_map(&four, name("svc"), &service(Kind::Ipv4)).unwrap(),
        Element::verdict([address("10.96.0.10"), Proto::TCP.into(), Port(80).into()], goto.clone()),
        "30000180 14000180 10000100 0a60000a 06000000 00500000
         18000280 14000280 08000100 fffffffc 08000200 6e5f3200",
    );
    case(
        Set::map(&four, name("eps"), &endpoint(Kind::Ipv4), &[Kind::Ipv4, Kind::Port]).unwrap(),
        Element::fields(
            [address("10.96.0.10"), Proto::TCP.into(), Port(80).into(), Mark(1).into()],
            [address("10.244.1.5"), Port(8080).into()],
        ),
        "2c000180 18000180 14000100 0a60000a 06000000 00500000 01000000
         10000280 0c000100 0af40105 1f900000",
    );
    case(
        Set::verdict_map(&six, name("svc"), &service(Kind::Ipv6)).unwrap(),
        Element::verdict([address("fd00:10::a"), Proto::UDP.into(), Port(53).into()], goto),
        "3c000180 20000180 1c000100 fd000010000000000000000000 00000a 11000000 00350000
         18000280 14000280 08000100 fffffffc 08000200 6e5f3200",
    );
    case(
        Set::map(&six, name("eps"), &endpoint(Kind::Ipv6), &[Kind::Ipv6, Kind::Port]).unwrap(),
        Element::fields(
            [address("fd00:10::a"), Proto::UDP.into(), Port(53).into(), Mark(7).into()],
            [address("fd00:244::5"), Port(5353).into()],
        ),
        "44000180 24000180 20000100 fd000010000000000000000000 00000a 11000000 00350000 07000000
         1c000280 18000100 fd000244000000000000000000 000005 14e90000",
    );
    case(
        Set::map(&four, name("one"), &[Kind::Port], &[Kind::Mark]).unwrap(),
        Element::fields([Port(443).into()], [Mark(0x4000).into()]),
        "1c000180 0c000180 06000100 01bb0000 0c000280 08000100 00400000",
    );
    case(
        Set::plain(&four, name("src"), &[Kind::Ipv4, Kind::Proto, Kind::Port, Kind::Ipv4]).unwrap(),
        Element::member(Key::range(
            Tuple::from([address("10.96.0.10"), Proto::TCP.into(), Port(80).into(), address("192.0.2.0")]),
            Tuple::from([address("10.96.0.10"), Proto::TCP.into(), Port(80).into(), address("192.0.2.255")]),
        )),
        "34000180 18000180 14000100 0a60000a 06000000 00500000 c0000200
         18000a80 14000100 0a60000a 06000000 00500000 c00002ff",
    );
    cases
}

#[test]
fn elements_are_written_as_nft_writes_them() {
    for (set, element, bytes) in added_by_nft() {
        let mut batch = Batch::new();
        batch.add(&set, &element).unwrap();
        assert_eq!(list(batch), bytes, "{set}: {element}");
    }
}

#[test]
fn elements_are_read_back_as_they_were_written() {
    for (set, element, _) in added_by_nft() {
        let mut batch = Batch::new();
        batch.add(&set, &element).unwrap();
        let encoded = batch.encode(0);
        let mut found = Vec::new();
        for message in decode::messages(encoded.bytes()) {
            assert_eq!(decode::elements(&set, &message.unwrap(), &mut found), Ok(0));
        }
        assert_eq!(found, [element]);
    }
}

const BEGIN: &str = "14000000 1000 0100 00000000 00000000 00 00 000a";
const END: &str = "14000000 1100 0100 02000000 00000000 00 00 000a";

/// Batches whole; beside nft's own flags the last message asks for an answer (0x0004).
#[test]
fn deletions_are_the_batches_that_nft_sends() {
    let services = &added_by_nft()[0].0;
    let key = Key::from([address("10.96.0.10"), Proto::TCP.into(), Port(80).into()]);
    type Change = Box<dyn Fn(&mut Batch)>;
    let delete: Change = {
        let services = services.clone();
        Box::new(move |batch| batch.delete(&services, &key).unwrap())
    };
    let flush: Change = {
        let services = services.clone();
        Box::new(move |batch| batch.flush(&services))
    };
    let table: Change = Box::new(|batch| batch.delete_table(&table(Family::Ip)));
    let cases = [
        (
            delete,
            "48000000 0e0a 0500 01000000 00000000 02 00 0000 0d000100 736572766963657300 000000 08000200 73766300
             1c000380 18000180 14000180 10000100 0a60000a 06000000 00500000",
        ),
        (flush, "2c000000 0e0a 0500 01000000 00000000 02 00 0000 0d000100 736572766963657300 000000 08000200 73766300"),
        (table, "24000000 020a 0500 01000000 00000000 02 00 0000 0d000100 736572766963657300 000000"),
    ];
    for (change, message) in cases {
        let mut batch = Batch::new();
        change(&mut batch);
        assert_eq!(batch.encode(0).bytes(), hex(&format!("{BEGIN}{message}{END}")));
    }
}

#[test]
fn a_generation_is_part_of_the_beginning() {
    let mut batch = Batch::at(0x0102_0304);
    batch.add_table(&table(Family::Inet));
    let encoded = batch.encode(0);
    let message = decode::messages(encoded.bytes()).next().unwrap().unwrap();
    assert_eq!(message.payload, hex("00 00 000a 08000100 01020304"));
}

#[test]
fn a_list_is_split_before_its_length_overflows() {
    for (set, element, _) in added_by_nft() {
        let mut batch = Batch::new();
        for _ in 0..5000 {
            batch.add(&set, &element).unwrap();
        }
        let encoded = batch.encode(u32::MAX);
        let messages: Vec<_> = decode::messages(encoded.bytes()).map(Result::unwrap).collect();
        assert!(encoded.messages() > 1 && messages.len() == encoded.messages() + 2);
        let mut found = Vec::new();
        for message in &messages {
            assert!(message.payload.len() < 65_536 + 40, "{set}: {}", message.payload.len());
            assert_eq!(decode::elements(&set, message, &mut found), Ok(0));
        }
        assert!(found.len() == 5000 && found.iter().all(|found| *found == element));
        // Numbers go on past the largest; only the last change asks for an answer.
        let numbers = (0..messages.len() as u32).map(|index| u32::MAX.wrapping_add(index));
        assert!(messages.iter().map(|message| message.sequence).eq(numbers));
        let asking: Vec<_> = messages.iter().map(|message| message.flags & 4 != 0).collect();
        assert_eq!(asking.iter().rposition(|asks| *asks), Some(messages.len() - 2));
        assert_eq!(asking.iter().filter(|asks| **asks).count(), 1);
    }
}

#[test]
fn an_element_that_does_not_fit_its_set_is_refused_and_leaves_the_batch_as_it_was() {
    let cases = added_by_nft();
    for (index, (set, _, _)) in cases.iter().enumerate() {
        for (other, (_, element, _)) in cases.iter().enumerate() {
            let mut batch = Batch::new();
            assert_eq!(batch.add(set, element).is_ok(), index == other, "{set}: {element}");
            assert_eq!(batch.is_empty(), index != other);
        }
    }
    let (set, element, _) = &cases[4];
    let range = Key::range([Port(1).into()].into(), [Port(9).into()].into());
    let wrong = Batch::new().delete(set, &range).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "set ip services one: element 1-9 does not have the fields that the set declares",
        "{element}"
    );
}

#[test]
fn elements_are_said_as_nft_says_them() {
    let said: Vec<String> = added_by_nft().iter().map(|(_, element, _)| element.to_string()).collect();
    assert_eq!(
        said,
        [
            "10.96.0.10 . tcp . 80 : goto n_2",
            "10.96.0.10 . tcp . 80 . 0x1 : 10.244.1.5 . 8080",
            "fd00:10::a . udp . 53 : goto n_2",
            "fd00:10::a . udp . 53 . 0x7 : fd00:244::5 . 5353",
            "443 : 0x4000",
            "10.96.0.10 . tcp . 80 . 192.0.2.0-192.0.2.255",
        ]
    );
}

/// Answers of the kernel, with the option for short errors and without.
#[test]
fn answers_tell_the_number_and_the_place() {
    let refused =
        |offset, text: Option<&str>| Some(Answer::Refused { errno: 2, offset, text: text.map(str::to_owned) });
    let cases = [
        ("24000000 0200 0001 05000000 01000000 00000000 48000000 0e0a 0500 05000000 00000000", Some(Answer::Done)),
        ("24000000 0200 0001 05000000 01000000 feffffff 48000000 0e0a 0500 05000000 00000000", refused(None, None)),
        (
            "34000000 0200 0003 05000000 01000000 feffffff 48000000 0e0a 0500 05000000 00000000
             08000200 2c000000 07000100 6e6f0000",
            refused(Some(44), Some("no")),
        ),
        (
            "2c000000 0200 0002 05000000 01000000 feffffff 14000000 0e0a 0500 05000000 00000000 02000000 
             08000200 10000000",
            refused(Some(16), None),
        ),
        ("14000000 0300 0200 05000000 01000000 00000000", Some(Answer::Done)),
        ("14000000 0300 0200 05000000 01000000 feffffff", refused(None, None)),
        ("14000000 0f0a 0000 05000000 01000000 00000001", None),
    ];
    for (bytes, expected) in cases {
        let mut bytes = hex(bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let message = decode::messages(&bytes).next().unwrap().unwrap();
        assert_eq!(decode::answer(&message), Ok(expected), "{bytes:02x?}");
    }
}

#[test]
fn names_and_shapes_that_the_kernel_would_refuse_do_not_exist() {
    for text in ["", "two words", "line\n", "Müller", &"a".repeat(256)] {
        assert!(Name::new(text).is_err(), "{text:?}");
    }
    assert!(Name::new(&"a".repeat(255)).is_ok());
    let table = table(Family::Inet);
    let five = [Kind::Ipv6; 5];
    assert!(Set::plain(&table, name("s"), &five[..4]).is_ok());
    for (key, data) in [(&five[..], &five[..1]), (&five[..1], &five[..]), (&[][..], &five[..1]), (&five[..1], &[][..])]
    {
        assert!(Set::map(&table, name("s"), key, data).is_err(), "{key:?} {data:?}");
    }
}
