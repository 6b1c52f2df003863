//! Ports that a test needs to be shut, or the same for TCP and UDP.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A TCP address that refuses connections, and that nobody else can be given, as long as this lives.
#[derive(Debug)]
pub struct Refusing {
    /// Bound, and never listening.
    _held: Socket,
    address: SocketAddr,
}

impl Refusing {
    /// At a port that the kernel chooses.
    ///
    /// # Errors
    /// When the host does not have the address.
    pub fn at(ip: impl Into<IpAddr>) -> Result<Self> {
        let wanted = SocketAddr::from((ip, 0));
        let held = Socket::new(Domain::for_address(wanted), Type::STREAM, None)?;
        held.bind(&wanted.into()).with_context(|| format!("bind {wanted}"))?;
        let address = held.local_addr()?.as_socket().context("no address")?;
        Ok(Self { _held: held, address })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A port that nobody has, of TCP or of UDP, and that the kernel gives to nobody who does not ask for it by number.
///
/// # Errors
/// When all are taken.
pub fn unused() -> Result<u16> {
    /// Below what the kernel gives (ip_local_port_range begins at 32768), above well-known ones.
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes start at places of their own.
    let start = u16::try_from(std::process::id() % 600)? * 30;
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| {
            let addresses = [SocketAddr::from(([0; 4], *port)), SocketAddr::from(([0; 16], *port))];
            addresses.iter().all(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        })
        .context("no port is free")
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn a_held_address_refuses_and_is_given_to_nobody_else() -> Result<()> {
        let held = Refusing::at(Ipv4Addr::LOCALHOST)?;
        let refused = TcpStream::connect(held.address()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        let taken = TcpListener::bind(held.address()).map(drop).map_err(|error| error.kind());
        assert_eq!(taken, Err(ErrorKind::AddrInUse));
        Ok(())
    }

    #[test]
    fn an_unused_port_is_free_for_both_and_given_once() -> Result<()> {
        let (one, two) = (unused()?, unused()?);
        assert_ne!(one, two);
        let _both = (TcpListener::bind((Ipv4Addr::UNSPECIFIED, one))?, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, one))?);
        Ok(())
    }
}
