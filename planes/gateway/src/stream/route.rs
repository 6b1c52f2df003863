//! Which endpoint takes a connection or a flow.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use headwater_balance::{hash_key, pick_backend};
use headwater_client_address::{Client, Sender, proxy};
use headwater_model::client::EmitProxyProtocol;
use headwater_model::gateway::{Balance, HashKey, PoolId, StreamRoute};
use headwater_net_io::tls::hello::Hello;

use crate::fault::Reason;
use crate::upstream::{Lease, Tried};
use crate::worker::Worker;

/// The choices made for one connection or flow; those that failed are not made again while there are others.
#[derive(Default)]
pub(super) struct Choices {
    tried: smallvec::SmallVec<[(PoolId, Tried); 1]>,
}

impl Choices {
    /// Picks an endpoint, from a backend that has one.
    pub(super) fn pick(&mut self, worker: &Rc<Worker>, route: &StreamRoute, client: IpAddr) -> Result<Lease, Reason> {
        let key = match route.balance {
            Balance::Hash(_) => Some(match client {
                IpAddr::V4(v4) => hash_key(&v4.octets()),
                IpAddr::V6(v6) => hash_key(&v6.octets()),
            }),
            _ => None,
        };
        let balance = if key.is_some() { Balance::Hash(HashKey::Client) } else { route.balance.clone() };
        let now = worker.nanoseconds(Instant::now());
        let mut without = smallvec::SmallVec::<[usize; 4]>::new();
        loop {
            let weights = route.backends.iter().enumerate();
            let weights = weights.map(|(at, backend)| if without.contains(&at) { 0 } else { backend.weight });
            // A client that keeps its endpoint keeps its backend, too; by other bits than those that choose the endpoint.
            let spread = |key: u64| key.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let chosen = pick_backend(weights, key.map_or_else(|| worker.random(), spread));
            let Some(at) = chosen else {
                return Err(route.refuse.as_deref().map_or(Reason::NoEndpoints, Reason::of_word));
            };
            let id = route.backends[at].pool;
            if let Some(pool) = worker.upstreams.find(id)
                && let Some(lease) = pool.pick(&balance, key, None, worker, now, self.of(id))
            {
                return Ok(lease);
            }
            without.push(at);
        }
    }

    fn of(&mut self, pool: PoolId) -> &mut Tried {
        let at = match self.tried.iter().position(|(known, _)| *known == pool) {
            Some(at) => at,
            None => {
                self.tried.push((pool, Tried::default()));
                self.tried.len() - 1
            }
        };
        &mut self.tried[at].1
    }
}

/// The PROXY header that the endpoint wants ahead of everything.
pub(super) fn proxy_header(
    emit: EmitProxyProtocol,
    transport: proxy::Transport,
    (client, sender): (&Client, &Sender),
    hello: Option<&Hello>,
    passed_on: Option<&proxy::Tlvs>,
    out: &mut Vec<u8>,
) {
    let (source, destination) = (Some(client.socket_addr()), Some(sender.destination));
    match (emit, transport) {
        (EmitProxyProtocol::Off, _) => {}
        // Version 1 has no word for datagrams.
        (EmitProxyProtocol::V1, proxy::Transport::Stream) => proxy::write_v1(source, destination, out),
        (EmitProxyProtocol::V1 | EmitProxyProtocol::V2, _) => {
            let extras = proxy::V2Extras {
                authority: hello.and_then(|hello| hello.server_name.as_deref()).map(str::as_bytes),
                alpn: hello.and_then(|hello| hello.alpn.as_deref()),
                passed_on,
                ..proxy::V2Extras::default()
            };
            proxy::write_v2(source, destination, transport, &extras, out);
        }
    }
}
