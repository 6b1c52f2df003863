use proptest::prelude::*;

use super::*;

#[test]
fn entries_are_read_in_every_form_and_no_other() {
    let long = format!("fe80::1%{}", "z".repeat(200));
    for (entry, expected) in [
        ("192.0.2.1", Some(("192.0.2.1", None))),
        ("192.0.2.1:443", Some(("192.0.2.1", Some(443)))),
        ("2001:db8::1", Some(("2001:db8::1", None))),
        ("[2001:db8::1]", Some(("2001:db8::1", None))),
        ("[2001:DB8::1]:443", Some(("2001:db8::1", Some(443)))),
        (" \t192.0.2.1 \t", Some(("192.0.2.1", None))),
        ("fe80::1%eth0", Some(("fe80::1", None))),
        ("[fe80::1%25eth0]:80", Some(("fe80::1", Some(80)))),
        ("[fe80::1%eth0.1]:80", Some(("fe80::1", Some(80)))),
        ("::ffff:192.0.2.1", Some(("192.0.2.1", None))),
        ("[::ffff:192.0.2.1]:8", Some(("192.0.2.1", Some(8)))),
        ("::FFFF:c000:201", Some(("192.0.2.1", None))),
        ("::", Some(("::", None))),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("example.com", None),
        ("192.0.2.1:", None),
        ("192.0.2.1:65536", None),
        ("192.0.2.1:+80", None),
        ("192.0.2.1:8a", None),
        ("192.0.2.01", None),
        ("192.0.2", None),
        ("192.0.2.1.1", None),
        ("0x7f.0.0.1", None),
        ("192.0.2.1 192.0.2.2", None),
        ("[192.0.2.1]", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]443", None),
        ("[2001:db8::1]:", None),
        ("2001:db8::1]", None),
        ("2001:db8::1%", None),
        ("2001:db8::1%a b", None),
        ("192.0.2.1%eth0", None),
        ("\"192.0.2.1\"", None),
        ("192.0.2.1\u{e9}", None),
        (long.as_str(), None),
    ] {
        let expected = expected.map(|(addr, port)| (addr.parse().unwrap(), port));
        assert_eq!(parse_address(entry.as_bytes()), expected, "{entry:?}");
    }
}

fn lines<'a>(lines: &'a [&'a str]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    lines.iter().map(|line| line.as_bytes())
}

fn texts<'a>(found: impl Iterator<Item = &'a [u8]>) -> Vec<&'a str> {
    found.map(|text| std::str::from_utf8(text).unwrap()).collect()
}

#[test]
fn lists_are_joined_and_read_from_the_right() {
    assert_eq!(texts(entries_from_the_right(lines(&["a, b ,,", "", " ,c\t,d"]))), ["d", "c", "b", "a"]);
    assert_eq!(texts(entries_from_the_right(lines(&["", " , ,"]))), [""; 0]);
}

#[test]
fn commas_in_quotes_do_not_divide_elements() {
    for (line, expected) in [
        (r#"for=a, for=b"#, &["for=b", "for=a"][..]),
        (r#"for="a,b";x=1,for=c"#, &["for=c", r#"for="a,b";x=1"#]),
        (r#"for="a\",b", for=c"#, &["for=c", r#"for="a\",b""#]),
        (r#"for="a,\"b", for=c"#, &["for=c", r#"for="a,\"b""#]),
        (r#"for="a,\\\"b", for=c"#, &["for=c", r#"for="a,\\\"b""#]),
        (r#"for="a\\", for=c"#, &["for=c", r#"for="a\\""#]),
        (r#"for="a\\\",", for=c"#, &["for=c", r#"for="a\\\",""#]),
        // An open quote on the left does not swallow what a proxy appended.
        (r#"for="evil, for=c"#, &["for=c", r#"for="evil"#]),
        (r#"for=", for="c,d""#, &[r#"for="c,d""#, r#"for=""#]),
        (",, for=a ,", &["for=a"]),
    ] {
        assert_eq!(texts(elements_from_the_right(lines(&[line]))), expected, "{line}");
    }
}

#[test]
fn elements_are_read_by_their_grammar() {
    for (text, expected) in [
        (r#"for=192.0.2.43"#, Some((Some("192.0.2.43"), None, None))),
        (r#"For="[2001:db8:cafe::17]:4711""#, Some((Some("[2001:db8:cafe::17]:4711"), None, None))),
        (r#"for=192.0.2.60;proto=http;by=203.0.113.43"#, Some((Some("192.0.2.60"), Some("http"), None))),
        (r#"host="a.example:8443" ; FOR=_x; PROTO="https""#, Some((Some("_x"), Some("https"), Some("a.example:8443")))),
        (r#"for="a\"b\\c""#, Some((Some(r#"a"b\c"#), None, None))),
        (r#"for=192.0.2.1:80"#, Some((Some("192.0.2.1:80"), None, None))),
        (";;for=a;", Some((Some("a"), None, None))),
        (r#"secret="x,y""#, Some((None, None, None))),
        ("for=a;for=b", None),
        ("for", None),
        ("for=", None),
        ("=a", None),
        ("f or=a", None),
        ("for =a", None),
        ("for=a b", None),
        (r#"for="a"#, None),
        (r#"for="a\"#, None),
        (r#"for="a"b"#, None),
        ("for=\"a\u{7f}\"", None),
        (r#"for=a" "#, None),
    ] {
        let found = Element::parse(text.as_bytes());
        let found = found.as_ref().map(|element| {
            [&element.node, &element.proto, &element.host]
                .map(|value| value.as_deref().map(|value| std::str::from_utf8(value).unwrap()))
        });
        assert_eq!(found, expected.map(|(node, proto, host)| [node, proto, host]), "{text}");
    }
}

#[test]
fn obfuscated_ports_are_dropped_and_obfuscated_nodes_are_no_addresses() {
    for (text, expected) in [
        ("for=\"192.0.2.1:_p\"", Some("192.0.2.1")),
        ("for=\"[2001:db8::1]:_p\"", Some("2001:db8::1")),
        ("for=\"2001:db8::1:_p\"", None),
        ("for=\"[2001:db8::1]:80:_p\"", None),
        ("for=\"192.0.2.1:80:_p\"", None),
        ("for=\"192.0.2.1:_\"", None),
        ("for=\":_p\"", None),
        ("for=unknown", None),
        ("for=_hidden", None),
        ("proto=http", None),
    ] {
        let found = Element::parse(text.as_bytes()).unwrap().address();
        assert_eq!(found, expected.map(|addr| (addr.parse().unwrap(), None)), "{text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>, text in "[0-9a-f:.%\\[\\]_\"\\\\;,= forhst]{0,60}") {
        crate::fuzz::entry(&bytes);
        crate::fuzz::entry(text.as_bytes());
    }

    #[test]
    fn any_address_is_read_back_from_every_form(octets: [u8; 16], v4: [u8; 4], port: u16) {
        let v6 = IpAddr::from(octets).to_canonical();
        let v4 = IpAddr::from(v4);
        if v6.is_ipv6() {
            prop_assert_eq!(parse_address(format!("[{v6}]:{port}").as_bytes()), Some((v6, Some(port))));
            prop_assert_eq!(parse_address(format!("[{v6}%1]").as_bytes()), Some((v6, None)));
            prop_assert_eq!(parse_address(v6.to_string().as_bytes()), Some((v6, None)));
        }
        prop_assert_eq!(parse_address(format!("{v4}:{port}").as_bytes()), Some((v4, Some(port))));
        prop_assert_eq!(parse_address(format!("::ffff:{v4}").as_bytes()), Some((v4, None)));
    }

    #[test]
    fn what_stands_left_never_changes_how_the_right_is_read(left in "[ -~]{0,40}", line_break: bool) {
        let appended = r#"for="[2001:db8::1]:80";proto=https"#;
        let joined = format!("{left}, {appended}");
        let found = if line_break {
            texts(elements_from_the_right(lines(&[left.as_str(), appended])))[0].to_owned()
        } else {
            texts(elements_from_the_right(lines(&[joined.as_str()])))[0].to_owned()
        };
        prop_assert_eq!(found, appended);
    }
}
