//! The kernel: in network namespaces of their own, as root.

#![allow(clippy::unwrap_used, reason = "what a test cannot make or read fails it")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use headwater_nft::{
    Batch, Commit, Data, Element, Events, Family, Field, Kernel, Key, Kind, Mark, Name, NftError, Notice, Object,
    Place, Port, Proto, Set, Table, Tuple, Verdict, load,
};
use headwater_testkit::lab;

/// How long an event may take.
const SOON: Duration = Duration::from_secs(10);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Constant rules and two maps; chains for up to ten endpoints.
fn ruleset(family: Family) -> String {
    let address = match family {
        Family::Ip6 => "ipv6_addr",
        _ => "ipv4_addr",
    };
    let chains: String = (1..=10)
        .map(|count| format!("chain n_{count} {{ meta mark set numgen random mod {count}; goto d; }}\n"))
        .collect();
    format!(
        "table {family} services {{
            map svc {{ type {address} . inet_proto . inet_service : verdict; }}
            map eps {{ type {address} . inet_proto . inet_service . mark : {address} . inet_service; }}
            set sources {{ type {address} . inet_service . {address}; flags interval; }}
            chain d {{
                meta l4proto {{ tcp, udp }} dnat {family} to {family} daddr . meta l4proto . th dport . meta mark map @eps
            }}
            {chains}
            chain pre {{
                type nat hook prerouting priority dstnat
                {family} daddr . meta l4proto . th dport vmap @svc
            }}
        }}"
    )
}

/// The sets of that ruleset.
#[derive(Clone)]
struct Services {
    table: Table,
    svc: Set,
    eps: Set,
    sources: Set,
}

fn services(family: Family) -> Services {
    let address = if family == Family::Ip6 { Kind::Ipv6 } else { Kind::Ipv4 };
    let table = Table::new(family, name("services"));
    let svc = Set::verdict_map(&table, name("svc"), &[address, Kind::Proto, Kind::Port]).unwrap();
    let key = [address, Kind::Proto, Kind::Port, Kind::Mark];
    let eps = Set::map(&table, name("eps"), &key, &[address, Kind::Port]).unwrap();
    let sources = Set::plain(&table, name("sources"), &[address, Kind::Port, address]).unwrap();
    Services { table, svc, eps, sources }
}

/// An address of this family that ends in a number of 24 bits.
fn address(family: Family, range: u8, number: u32) -> Field {
    let [_, a, b, c] = number.to_be_bytes();
    Field::Addr(match family {
        Family::Ip6 => {
            IpAddr::V6(Ipv6Addr::from_bits((0xfd00_u128 << 112) | (u128::from(range) << 96) | u128::from(number)))
        }
        _ => IpAddr::V4(Ipv4Addr::new(range, a, b, c)),
    })
}

fn service(family: Family, number: u32, endpoints: u32) -> Element {
    let key = [address(family, 10, number), Proto::TCP.into(), Port(80).into()];
    Element::verdict(key, Verdict::Goto(name(&format!("n_{endpoints}"))))
}

fn endpoint(family: Family, number: u32, slot: u32, to: u32) -> Element {
    let key = [address(family, 10, number), Proto::TCP.into(), Port(80).into(), Mark(slot).into()];
    Element::fields(key, [address(family, 172, to), Port(8080).into()])
}

/// A host with the ruleset, and what runs inside.
fn inside(family: Family, body: impl FnOnce(&lab::Host, Services, Kernel) -> Result<()> + Send) -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        host.run(|| {
            load(&ruleset(family))?;
            body(&host, services(family), Kernel::open()?)
        })
    })
}

fn dump(kernel: &mut Kernel, set: &Set) -> Result<Vec<Element>> {
    let dump = kernel.dump(set)?;
    ensure!(dump.foreign == 0, "{set}: {} foreign elements", dump.foreign);
    Ok(dump.elements)
}

#[test]
fn one_batch_adds_replaces_and_removes_and_is_read_back() -> Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        inside(family, |host, Services { svc, eps, sources, .. }, mut kernel| {
            let mut batch = Batch::new();
            for number in 0..2 {
                batch.add(&svc, &service(family, number, 2))?;
                for slot in 0..2 {
                    batch.add(&eps, &endpoint(family, number, slot, slot))?;
                }
            }
            let range = |last| {
                let field =
                    |number| Tuple::from([address(family, 10, 1), Port(80).into(), address(family, 192, number)]);
                Element::member(Key::range(field(0), field(last)))
            };
            batch.add(&sources, &range(255))?;
            let applied = kernel.apply(batch)?;
            assert_eq!(applied.elements, 7);
            assert_eq!(dump(&mut kernel, &svc)?, [service(family, 0, 2), service(family, 1, 2)]);
            assert_eq!(dump(&mut kernel, &sources)?, [range(255)]);

            // nft sees what was meant.
            let listed = host.exec("nft", &["list", "map", &family.to_string(), "services", "svc"])?;
            let shown = format!("{} . tcp . 80 : goto n_2", address(family, 10, 1));
            assert!(listed.contains(&shown), "{listed}");

            let mut batch = Batch::new();
            batch.delete(&svc, &service(family, 0, 2).key)?;
            batch.add(&svc, &service(family, 0, 1))?;
            batch.delete(&eps, &endpoint(family, 0, 1, 1).key)?;
            batch.delete(&eps, &endpoint(family, 1, 0, 0).key)?;
            batch.add(&eps, &endpoint(family, 1, 0, 77))?;
            batch.add(&eps, &endpoint(family, 1, 1, 1))?;
            batch.delete(&sources, &range(255).key)?;
            kernel.apply(batch)?;
            assert_eq!(dump(&mut kernel, &svc)?, [service(family, 0, 1), service(family, 1, 2)]);
            let left = [endpoint(family, 0, 0, 0), endpoint(family, 1, 0, 77), endpoint(family, 1, 1, 1)];
            assert_eq!(dump(&mut kernel, &eps)?, left);
            assert_eq!(dump(&mut kernel, &sources)?, []);

            let mut batch = Batch::new();
            batch.flush(&eps);
            batch.add(&eps, &endpoint(family, 1, 1, 1))?;
            kernel.apply(batch)?;
            assert_eq!(dump(&mut kernel, &eps)?, [endpoint(family, 1, 1, 1)]);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn every_kind_of_field_and_verdict_is_read_back_and_understood_by_nft() -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        host.run(|| {
            load(
                "table inet kinds {
                    chain one { }
                    map nodes { type ether_addr : mark; }
                    map ports { type inet_service : verdict; }
                    set hosts { type ipv6_addr; }
                    map wide { type ether_addr . inet_proto : inet_service . ether_addr . ipv4_addr; }
                }",
            )?;
            let table = Table::new(Family::Inet, name("kinds"));
            let ether = |last| Field::Ether([2, 0, 0, 0, 0xab, last]);
            let verdicts = [
                Verdict::Accept,
                Verdict::Drop,
                Verdict::Continue,
                Verdict::Return,
                Verdict::Jump(name("one")),
                Verdict::Goto(name("one")),
            ];
            let cases = [
                (
                    Set::map(&table, name("nodes"), &[Kind::Ether], &[Kind::Mark])?,
                    vec![Element::fields([ether(1)], [Mark(0x4000).into()])],
                    vec!["02:00:00:00:ab:01 : 0x00004000"],
                ),
                (
                    Set::verdict_map(&table, name("ports"), &[Kind::Port])?,
                    (1..).zip(verdicts).map(|(port, verdict)| Element::verdict([Port(port).into()], verdict)).collect(),
                    vec!["1 : accept", "2 : drop", "3 : continue", "4 : return", "5 : jump one", "6 : goto one"],
                ),
                (
                    Set::plain(&table, name("hosts"), &[Kind::Ipv6])?,
                    vec![Element::member([address(Family::Ip6, 1, 9)])],
                    vec!["fd00:1::9"],
                ),
                (
                    Set::map(
                        &table,
                        name("wide"),
                        &[Kind::Ether, Kind::Proto],
                        &[Kind::Port, Kind::Ether, Kind::Ipv4],
                    )?,
                    vec![Element::fields(
                        [ether(1), Proto::SCTP.into()],
                        [Port(9).into(), ether(2), address(Family::Ip, 9, 9)],
                    )],
                    vec!["02:00:00:00:ab:01 . sctp : 9 . 02:00:00:00:ab:02 . 9.0.0.9"],
                ),
            ];
            let mut kernel = Kernel::open()?;
            for (set, elements, shown) in cases {
                let mut batch = Batch::new();
                for element in &elements {
                    batch.add(&set, element)?;
                }
                kernel.apply(batch).with_context(|| set.to_string())?;
                assert_eq!(dump(&mut kernel, &set)?, elements, "{set}");
                let listed = host.exec("nft", &["-n", "list", "table", "inet", "kinds"])?.replace("132 :", "sctp :");
                for line in shown {
                    assert!(listed.contains(line), "{line} is not in {listed}");
                }
            }
            Ok(())
        })
    })
}

#[test]
fn a_refused_element_is_named_and_nothing_of_its_batch_is_applied() -> Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        inside(family, |_, Services { svc, eps, table, .. }, mut kernel| {
            let mut before = Batch::new();
            before.add(&svc, &service(family, 1, 2))?;
            before.add(&eps, &endpoint(family, 1, 0, 0))?;
            kernel.apply(before)?;
            let absent = Set::verdict_map(&table, name("absent"), svc.key())?;
            let missing = Element { key: service(family, 5000, 2).key, data: None };
            type Change<'a> = Box<dyn Fn(&mut Batch) -> Result<()> + 'a>;
            let cases: [(Change<'_>, Place, &str); 5] = [
                (
                    Box::new(|batch| Ok(batch.add(&svc, &service(family, 5000, 11))?)),
                    Place::Element(svc.clone(), Box::new(service(family, 5000, 11))),
                    "the table has no chain of that name",
                ),
                (
                    Box::new(|batch| Ok(batch.delete(&svc, &missing.key)?)),
                    Place::Element(svc.clone(), Box::new(missing.clone())),
                    "it is not in the set",
                ),
                (
                    Box::new(|batch| Ok(batch.add(&svc, &service(family, 1, 3))?)),
                    Place::Element(svc.clone(), Box::new(service(family, 1, 3))),
                    "its key is there already with other data; delete that in the same batch",
                ),
                (
                    Box::new(|batch| Ok(batch.add(&absent, &service(family, 5000, 2))?)),
                    Place::Set(absent.clone()),
                    "there is no such table or set; load it first",
                ),
                (
                    Box::new(|batch| {
                        batch.delete_table(&Table::new(Family::Inet, name("none")));
                        Ok(())
                    }),
                    Place::Table(Table::new(Family::Inet, name("none"))),
                    "there is no such table",
                ),
            ];
            for (change, place, why) in cases {
                let generation = kernel.generation()?.id;
                let mut batch = Batch::new();
                for number in 100..2000 {
                    batch.add(&svc, &service(family, number, 2))?;
                    if number == 1000 {
                        change(&mut batch)?;
                    }
                    if number % 500 == 0 {
                        batch.add(&eps, &endpoint(family, number, 0, 0))?;
                    }
                }
                // The element stands in the middle of a message, and the message in the middle of the batch.
                let Err(NftError::Refused(refusal)) = kernel.apply(batch) else { panic!("{place}: applied") };
                assert_eq!((&refusal.place, refusal.why.as_str()), (&place, why), "{refusal}");
                assert_eq!(kernel.generation()?.id, generation);
                assert_eq!(dump(&mut kernel, &svc)?, [service(family, 1, 2)]);
                assert_eq!(dump(&mut kernel, &eps)?, [endpoint(family, 1, 0, 0)]);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_batch_for_an_older_generation_is_stale() -> Result<()> {
    inside(Family::Ip, |host, Services { svc, .. }, mut kernel| {
        let batch = |generation, number| -> Result<Batch> {
            let mut batch = Batch::at(generation);
            batch.add(&svc, &service(Family::Ip, number, 1))?;
            Ok(batch)
        };
        let generation = kernel.dump(&svc)?.generation;
        kernel.apply(batch(generation, 1)?)?;
        host.nft("add table inet other")?;
        let stale = kernel.apply(batch(generation + 1, 2)?);
        assert!(matches!(stale, Err(NftError::Stale { expected }) if expected == generation + 1), "{stale:?}");
        let dump = kernel.dump(&svc)?;
        assert_eq!(dump.elements, [service(Family::Ip, 1, 1)]);
        kernel.apply(batch(dump.generation, 2)?)?;
        assert_eq!(kernel.dump(&svc)?.elements.len(), 2);
        Ok(())
    })
}

#[test]
fn a_table_is_deleted_whether_it_is_there_or_not() -> Result<()> {
    inside(Family::Ip, |host, Services { svc, table, .. }, mut kernel| {
        for _ in 0..2 {
            let mut batch = Batch::new();
            batch.add_table(&table);
            batch.delete_table(&table);
            kernel.apply(batch)?;
            assert_eq!(host.exec("nft", &["list", "ruleset"])?, "");
        }
        let absent = kernel.dump(&svc).unwrap_err();
        assert_eq!(absent.to_string(), "set ip services svc: there is none; load its table first");
        Ok(())
    })
}

#[test]
fn what_the_set_cannot_have_is_counted_apart() -> Result<()> {
    inside(Family::Ip, |host, Services { svc, table, .. }, mut kernel| {
        host.nft("add element ip services svc { 10.0.0.1 . tcp . 80 : goto n_1, * : drop }")?;
        let dump = kernel.dump(&svc)?;
        assert_eq!((dump.elements, dump.foreign), (vec![service(Family::Ip, 1, 1)], 1));
        let other = Set::plain(&table, name("svc"), &[Kind::Port])?;
        let dump = kernel.dump(&other)?;
        assert_eq!((dump.elements, dump.foreign), (vec![], 2));
        Ok(())
    })
}

#[test]
fn a_ruleset_that_nft_refuses_is_refused_with_its_words() -> Result<()> {
    lab::test(|lab| {
        lab.host("node")?.run(|| {
            let refused = load("table ip a { }\ntable ip b { chain c { nonsense } }").unwrap_err().to_string();
            assert!(refused.starts_with("ruleset refused by nft: ") && refused.contains("nonsense"), "{refused}");
            let mut kernel = Kernel::open()?;
            let set = Set::plain(&Table::new(Family::Ip, name("a")), name("s"), &[Kind::Port])?;
            assert!(matches!(kernel.dump(&set), Err(NftError::Absent { .. })));
            Ok(())
        })
    })
}

fn commit(events: &mut Events) -> Result<Commit> {
    match events.wait(SOON)? {
        Some(Notice::Commit(commit)) => Ok(commit),
        other => anyhow::bail!("{other:?} instead of a commit"),
    }
}

#[test]
fn a_change_by_somebody_else_is_noticed_with_what_it_touched() -> Result<()> {
    inside(Family::Ip, |host, Services { svc, eps, table, .. }, mut kernel| {
        let mut events = Events::subscribe(&[table])?;
        let mut batch = Batch::new();
        batch.add(&svc, &service(Family::Ip, 1, 2))?;
        batch.add(&svc, &service(Family::Ip, 2, 2))?;
        batch.add(&eps, &endpoint(Family::Ip, 1, 0, 0))?;
        kernel.apply(batch)?;
        let touched = |commit: &Commit| -> Vec<String> {
            let what = |touched: &headwater_nft::Touched| {
                format!("{:?} {}{}", touched.object, touched.name, if touched.removed { " removed" } else { "" })
            };
            commit.touched.iter().map(what).collect()
        };
        let ours = commit(&mut events)?;
        assert_eq!((ours.port, ours.generation), (kernel.port(), kernel.generation()?.id));
        assert_eq!(touched(&ours), ["Elements eps", "Elements svc"]);

        host.nft("add table inet other; add chain inet other c")?;
        for (script, expected) in [
            ("flush map ip services svc", vec!["Elements svc removed"]),
            ("add element ip services eps { 10.0.0.9 . tcp . 80 . 0 : 172.0.0.1 . 1 }", vec!["Elements eps"]),
            ("add chain ip services mine; add rule ip services mine drop", vec!["Chain mine", "Rule mine"]),
            ("add table ip other", vec![]),
            ("flush chain ip services pre", vec!["Rule pre removed"]),
        ] {
            host.nft(script)?;
            if expected.is_empty() {
                continue;
            }
            let theirs = commit(&mut events)?;
            assert_eq!(touched(&theirs), expected, "{script}");
            assert_ne!(theirs.port, kernel.port());
            assert_eq!((theirs.program.as_str(), theirs.pid > 0), ("nft", true));
        }
        host.nft("delete table ip services")?;
        let gone = commit(&mut events)?;
        assert!(gone.touched.iter().any(|touched| touched.object == Object::Table && touched.removed), "{gone:?}");
        assert_eq!(events.fetch()?, None);
        Ok(())
    })
}

#[test]
fn more_events_than_can_be_kept_are_told_as_a_loss_and_later_ones_are_told_again() -> Result<()> {
    inside(Family::Ip, |host, Services { svc, table, .. }, mut kernel| {
        let mut events = Events::subscribe(&[table])?;
        let mut batch = Batch::new();
        for number in 0..300_000 {
            batch.add(&svc, &service(Family::Ip, number, 1))?;
        }
        kernel.apply(batch)?;
        let mut notices = Vec::new();
        while let Some(notice) = events.fetch()? {
            notices.push(notice);
        }
        assert!(notices.contains(&Notice::Lost), "{notices:?}");
        host.nft("add element ip services svc { 11.0.0.1 . tcp . 80 : goto n_1 }")?;
        assert_eq!(commit(&mut events)?.program, "nft");
        Ok(())
    })
}

#[test]
fn the_largest_commits_of_one_author_leave_room_for_those_of_others() -> Result<()> {
    inside(Family::Ip, |host, Services { svc, table, .. }, mut kernel| {
        let mut events = Events::of_others(&[table], kernel.port())?;
        let mut batch = Batch::new();
        for number in 0..300_000 {
            batch.add(&svc, &service(Family::Ip, number, 1))?;
        }
        kernel.apply(batch)?;
        assert_eq!(events.fetch()?, None);
        host.nft("add element ip services svc { 11.0.0.1 . tcp . 80 : goto n_1 }")?;
        assert_eq!(commit(&mut events)?.program, "nft");
        let mut batch = Batch::new();
        batch.add(&svc, &service(Family::Ip, 300_000, 1))?;
        Kernel::open()?.apply(batch)?;
        assert_ne!(commit(&mut events)?.port, kernel.port());
        assert_eq!(events.fetch()?, None);
        Ok(())
    })
}

/// Prints the times; asserts the order of magnitude, so that a layout or a loop gone quadratic is noticed.
#[test]
fn ten_thousand_services_with_ten_endpoints_each_are_programmed_at_once_and_changed_one_by_one() -> Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        inside(family, |_, Services { svc, eps, table, .. }, mut kernel| {
            let mut wanted = Vec::new();
            for number in 0..10_000 {
                wanted.extend((0..10).map(|slot| endpoint(family, number, slot, number * 10 + slot)));
            }
            let started = Instant::now();
            let mut batch = Batch::new();
            for element in &wanted {
                batch.add(&eps, element)?;
            }
            for number in 0..10_000 {
                batch.add(&svc, &service(family, number, 10))?;
            }
            let encoded = started.elapsed();
            let started = Instant::now();
            let applied = kernel.apply(batch)?;
            let committed = started.elapsed();
            let started = Instant::now();
            wanted.sort_unstable();
            assert!(dump(&mut kernel, &eps)? == wanted, "what is in the kernel differs");
            assert_eq!(dump(&mut kernel, &svc)?.len(), 10_000);
            let read = started.elapsed();
            eprintln!(
                "{family}: {} elements, {} bytes: encoded in {encoded:?}, committed in {committed:?}, read in {read:?}",
                applied.elements, applied.bytes
            );

            let change = |kernel: &mut Kernel, number: u32| -> Result<Duration> {
                let mut batch = Batch::new();
                let (old, new) = (endpoint(family, number, 3, number * 10 + 3), endpoint(family, number, 3, 1 << 20));
                batch.delete(&eps, &old.key)?;
                batch.add(&eps, &new)?;
                let started = Instant::now();
                kernel.apply(batch)?;
                Ok(started.elapsed())
            };
            let mut times: Vec<_> = (0..200).map(|number| change(&mut kernel, number)).collect::<Result<_>>()?;
            times.sort_unstable();
            eprintln!("{family}: one endpoint changed in {:?}, p99 {:?}", times[100], times[197]);
            let events = Events::subscribe(std::slice::from_ref(&table))?;
            let mut heard: Vec<_> = (200..400).map(|number| change(&mut kernel, number)).collect::<Result<_>>()?;
            heard.sort_unstable();
            eprintln!("{family}: with a subscriber in {:?}, p99 {:?}", heard[100], heard[197]);
            drop(events);
            let found = dump(&mut kernel, &eps)?;
            let moved = Data::Fields([address(family, 172, 1 << 20), Port(8080).into()].into());
            assert_eq!(found.iter().filter(|element| element.data.as_ref() == Some(&moved)).count(), 400);
            assert!(committed < Duration::from_secs(10) && times[100] < Duration::from_millis(100));
            Ok(())
        })?;
    }
    Ok(())
}
