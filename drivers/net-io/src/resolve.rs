//! Names of Services of type `ExternalName`.

use std::io;
use std::net::SocketAddr;

/// More addresses than that of one name are not used.
const MAX_ADDRESSES: usize = 256;

/// Addresses of `host` as the system's resolver gives them, in its order, without repetition; at least one.
///
/// `host` may be an address, in brackets or not. Asks on tokio's blocking pool, so call it from the control runtime.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in tokio::net::lookup_host((bare, port)).await? {
        if addresses.len() == MAX_ADDRESSES {
            break;
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_names_resolve_with_their_port() {
        for (host, expected) in
            [("192.0.2.1", "192.0.2.1:80"), ("2001:db8::1", "[2001:db8::1]:80"), ("[::1]", "[::1]:80")]
        {
            assert_eq!(resolve(host, 80).await.unwrap(), [expected.parse().unwrap()]);
        }
        let local = resolve("localhost", 8080).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 8080), "{local:?}");
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error() {
        assert!(resolve("a..b.invalid", 80).await.is_err());
    }
}
