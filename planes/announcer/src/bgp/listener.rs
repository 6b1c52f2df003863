//! Connections that peers open.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::AHashMap;
use headwater_net_io::listen::{ListenError, listen};
use headwater_net_io::peering;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// Who may connect; the lock is held for a lookup.
type Doors = Arc<Mutex<AHashMap<IpAddr, mpsc::Sender<TcpStream>>>>;

/// A listening socket. Who is no peer is closed at once.
pub(super) struct Listener {
    socket: Arc<TcpListener>,
    doors: Doors,
    task: JoinHandle<()>,
}

impl Listener {
    pub(super) fn start(address: SocketAddr) -> Result<Self, ListenError> {
        let other = |source| ListenError::Other { address, source };
        let socket = Arc::new(TcpListener::from_std(listen(address, false, BACKLOG)?).map_err(other)?);
        let doors = Doors::default();
        let task = tokio::spawn(accept(socket.clone(), doors.clone()));
        Ok(Self { socket, doors, task })
    }

    pub(super) fn open(&self, peer: IpAddr, key: Option<&str>, accepted: mpsc::Sender<TcpStream>) {
        self.sign(peer, key);
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, accepted);
    }

    pub(super) fn shut(&self, peer: IpAddr) {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        self.sign(peer, None);
    }

    fn sign(&self, peer: IpAddr, key: Option<&str>) {
        let Ok(local) = self.socket.local_addr() else { return };
        // A socket of IPv6 knows IPv4 peers by their mapped addresses.
        let known = match peer {
            IpAddr::V4(address) if local.is_ipv6() => address.to_ipv6_mapped().into(),
            IpAddr::V6(_) if local.is_ipv4() => return,
            other => other,
        };
        if let Err(error) = peering::sign(&*self.socket, known, key) {
            tracing::warn!(%peer, %error, "connections that the peer opens cannot be signed");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(socket: Arc<TcpListener>, doors: Doors) {
    loop {
        match socket.accept().await {
            Ok((stream, from)) => {
                let door = doors.lock().unwrap_or_else(PoisonError::into_inner).get(&from.ip().to_canonical()).cloned();
                // A peer that opens many is served by the first; the others are closed.
                if door.is_none_or(|door| door.try_send(stream).is_err()) {
                    tracing::debug!(%from, "a connection was refused");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "connections of peers cannot be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
