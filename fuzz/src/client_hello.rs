use headwater_net_io::tls::hello::{MAX_RECORDS, Peeked, peek};

/// First bytes of a TLS connection. What is known of a part stays true of the whole, and a name can be compared.
pub fn client_hello(bytes: &[u8]) {
    let whole = peek(bytes);
    match &whole {
        Peeked::Incomplete(need) => assert!(*need > bytes.len() && *need <= MAX_RECORDS, "{need} of {}", bytes.len()),
        Peeked::Hello(hello) => {
            if let Some(name) = &hello.server_name {
                assert!(!name.is_empty() && name.len() <= 253 && !name.ends_with('.'), "{name:?}");
                assert!(
                    !name.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || byte >= 0x7f),
                    "{name:?}"
                );
            }
        }
        Peeked::Other => {}
    }
    // A few cuts: one for each byte would make long inputs slow.
    for cut in [1, 5, 6, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let Some(part) = bytes.get(..cut) else { continue };
        match peek(part) {
            Peeked::Incomplete(need) => {
                assert!(whole == Peeked::Other || bytes.len() < need || cut < need, "{cut}");
            }
            known => assert_eq!(known, whole, "{cut} of {} bytes", bytes.len()),
        }
    }
}
