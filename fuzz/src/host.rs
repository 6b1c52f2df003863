//! Hosts of requests.

use headwater_route_match::normalise_host;

/// A host in normal form is its own normal form, and neither case nor port lead to another one.
pub fn host(bytes: &[u8]) {
    let (mut first, mut second) = (String::new(), "left from before".to_owned());
    let Ok(host) = normalise_host(bytes, &mut first) else { return };
    assert!(!host.is_empty() && host.len() <= 253);
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{host}");
    assert!(!host.contains(['/', '@', '%', '*', ' ', '\\', '?', '#']), "{host}");
    assert_eq!(normalise_host(host.as_bytes(), &mut second), Ok(host));
    assert_eq!(normalise_host(&bytes.to_ascii_uppercase(), &mut second), Ok(host));
    assert_eq!(normalise_host(format!("{host}:8443").as_bytes(), &mut second), Ok(host));
}
