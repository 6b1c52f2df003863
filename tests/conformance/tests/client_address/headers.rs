//! Which headers reach a backend.

use anyhow::{Context, Result};
use headwater_testkit::ask::{Protocol, ask};

use crate::{ANY, BEHIND_LB, Bench, HOST, XFF, address, addresses, ask_once};

#[test]
fn what_backends_believe_is_removed_from_untrusted_senders_however_it_is_spelled() -> Result<()> {
    const OF_UNTRUSTED: &[&str] = &[
        "True-Client-IP",
        "CF-Connecting-IP",
        "CF-Connecting-IPv6",
        "Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "Fastly-Client-IP",
        "X-Azure-ClientIP",
        "X-Envoy-External-Address",
        "X-Forwarded",
        "Forwarded-For",
        "Proxy",
    ];
    const OF_ALL: &[&str] = &[
        XFF,
        "X-Real-IP",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Scheme",
        "X-Scheme",
        "X-Original-Forwarded-For",
        "X-Request-ID",
        "Forwarded",
    ];
    let bench = Bench::start(&[(ANY, ""), (ANY, BEHIND_LB)])?;
    for (policy, from, trusted) in [("", "E", false), (BEHIND_LB, "E", false), (BEHIND_LB, "L", true)] {
        for protocol in Protocol::ALL {
            for (index, name) in OF_UNTRUSTED.iter().chain(OF_ALL).enumerate() {
                let spellings =
                    [(*name).to_owned(), name.replace('-', "_"), name.to_ascii_uppercase(), name.replacen('-', "_", 1)];
                let headers = spellings.each_ref().map(|name| (name.as_str(), "forged.test"));
                let headers = if trusted { &headers[..1] } else { &headers[..] };
                let seen = ask(protocol, &bench.dial(ANY, policy, false, address(from)), HOST, headers)?;
                let through = seen.headers().iter().filter(|(_, value)| value.contains("forged")).count();
                // A trusted sender's claims pass, but for those that are ours to write: these are believed, or copied.
                let original = usize::from(*name == XFF);
                let kept = match (trusted, index < OF_UNTRUSTED.len()) {
                    (true, true) => 1,
                    (true, false) => original + usize::from(["X-Forwarded-Host", "X-Request-ID"].contains(name)),
                    (false, _) => original,
                };
                assert_eq!(
                    through,
                    kept,
                    "{name} over {protocol:?} from {from} under {policy:?}: {:?}",
                    seen.headers()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn the_header_that_a_policy_believes_is_removed_from_untrusted_senders() -> Result<()> {
    let policy = "trustedProxies: [L], forwardedHeader: X-Edge-Client";
    let bench = Bench::start(&[(ANY, policy)])?;
    for protocol in Protocol::ALL {
        let headers = [("X-Edge-Client", "127.0.0.66"), ("X_Edge_Client", "127.0.0.66")];
        let seen = ask(protocol, &bench.dial(ANY, policy, false, address("C")), HOST, &headers)?;
        let names: Vec<String> = seen.headers().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        assert!(!names.iter().any(|name| name.contains("edge")), "{protocol:?}: {names:?}");
        assert_eq!(seen.header("x-real-ip"), Some(addresses("C")));
    }
    Ok(())
}

#[test]
fn a_request_id_is_kept_from_a_trusted_sender_only_and_only_when_it_is_one() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    let id = |from: &str, ids: &[&str]| -> Result<String> {
        let headers: Vec<_> = ids.iter().map(|id| ("X-Request-ID", *id)).collect();
        ask_once(&bench.dial(ANY, BEHIND_LB, false, address(from)), &headers)?.header("x-request-id").context("an id")
    };
    let is_fresh = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert_eq!(id("L", &["from-the-edge"])?, "from-the-edge");
    let long = "x".repeat(129);
    for (from, ids) in
        [("E", &["forged"][..]), ("L", &[]), ("L", &["one", "two"]), ("L", &["with space"]), ("L", &[&long])]
    {
        let given = id(from, ids)?;
        assert!(is_fresh(&given), "{from} {ids:?}: {given}");
    }
    assert_ne!(id("C", &[])?, id("C", &[])?);
    Ok(())
}

#[test]
fn the_inbound_header_is_passed_on_unchanged_as_the_original() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    for (from, inbound, expected) in [
        ("E", &["garbage , ;x, 1.2.3.4:5"][..], Some("garbage , ;x, 1.2.3.4:5")),
        ("L", &["one", "two, 127.0.0.7"], Some("one, two, 127.0.0.7")),
        ("L", &[], None),
    ] {
        let headers: Vec<_> = inbound.iter().map(|value| (XFF, *value)).collect();
        let seen = ask_once(&bench.dial(ANY, BEHIND_LB, false, address(from)), &headers)?;
        assert_eq!(seen.header("x-original-forwarded-for").as_deref(), expected, "{from} {inbound:?}");
    }
    Ok(())
}

#[test]
fn forwarded_is_written_with_one_element_for_each_verified_hop() -> Result<()> {
    let policy = "trustedProxies: [L], forwardedHeader: X-Forwarded-For, emitForwarded: true";
    let bench = Bench::start(&[(ANY, policy)])?;
    for (from, inbound, expected) in [
        ("C", "E", "for=C;by=_headwater;host=app.test;proto=http"),
        ("L", "E, C", "for=C;by=_proxy;host=app.test;proto=http, for=L;by=_headwater;host=app.test;proto=http"),
        ("L", "C6", "for=\"[C6]\";by=_proxy;host=app.test;proto=http, for=L;by=_headwater;host=app.test;proto=http"),
    ] {
        for protocol in Protocol::ALL {
            let headers = [(XFF, &*addresses(inbound)), ("Forwarded", "for=127.0.0.66")];
            let seen = ask(protocol, &bench.dial(ANY, policy, false, address(from)), HOST, &headers)?;
            assert_eq!(seen.header("forwarded"), Some(addresses(expected)), "{protocol:?} from {from}");
        }
    }
    Ok(())
}
