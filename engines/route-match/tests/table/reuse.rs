use std::sync::Arc;

use headwater_model::gateway::{HostLaw, HostPattern, VirtualHost};
use headwater_route_match::CompiledTable;

use crate::build::{Request, found, ordered, prefix, table};

#[test]
fn only_edited_hosts_are_compiled_again() {
    let host = |name: &str| HostPattern::Exact(name.into());
    let mut written = table(
        HostLaw::MostSpecific,
        ["a", "b", "c"].map(|name| (host(name), ordered(vec![("old", prefix("/"))]))).to_vec(),
    );
    let first = CompiledTable::compile(&written, None);
    let rules = ordered(vec![("new", prefix("/"))]);
    written.hosts.insert(host("b"), Arc::new(VirtualHost { host: host("b"), rules: rules.clone() }));
    let second = CompiledTable::compile(&written, Some(&first));
    written.hosts.remove(&host("a"));
    written.hosts.insert(host("d"), Arc::new(VirtualHost { host: host("d"), rules }));
    let third = CompiledTable::compile(&written, Some(&second));

    let same = |a: &CompiledTable, b: &CompiledTable, name: &str| {
        Arc::ptr_eq(a.host(&host(name)).unwrap(), b.host(&host(name)).unwrap())
    };
    assert!(same(&first, &second, "a") && !same(&first, &second, "b") && same(&first, &second, "c"));
    assert!(same(&second, &third, "b") && same(&second, &third, "c"));
    for (compiled, expected) in [
        (&first, [Some("old"), Some("old"), Some("old"), None]),
        (&second, [Some("old"), Some("new"), Some("old"), None]),
        (&third, [None, Some("new"), Some("old"), Some("new")]),
    ] {
        for (name, expected) in ["a", "b", "c", "d"].into_iter().zip(expected) {
            assert_eq!(found(compiled, &Request::path("/"), name).as_deref(), expected, "{name}");
        }
    }
}
