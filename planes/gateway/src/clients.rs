//! How many connections each client has, over all workers.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

type Counts = Mutex<ahash::HashMap<IpAddr, u32>>;

/// Counters by client, in shards so that workers rarely meet.
pub(crate) struct Clients {
    shards: Arc<[Counts; 16]>,
    hasher: ahash::RandomState,
}

impl Default for Clients {
    fn default() -> Self {
        Self { shards: Arc::new(std::array::from_fn(|_| Counts::default())), hasher: ahash::RandomState::new() }
    }
}

/// One connection of a client; leaves on drop.
pub(crate) struct Slot {
    shards: Arc<[Counts; 16]>,
    shard: usize,
    client: IpAddr,
}

impl Clients {
    /// Takes a place for the client, unless it has `limit` already.
    pub(crate) fn enter(&self, client: IpAddr, limit: u32) -> Option<Slot> {
        // IPv6 clients own whole networks; a /64 is one client, as a customer's line is (RFC 6177).
        let client = match client {
            IpAddr::V4(_) => client,
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        };
        let shard = (self.hasher.hash_one(client) % 16) as usize;
        let mut counts = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Slot { shards: self.shards.clone(), shard, client })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.shards[self.shard].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_limit_back_when_it_leaves() {
        let clients = Clients::default();
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let first = clients.enter(client, 2);
        let second = clients.enter(client, 2);
        assert!(first.is_some() && second.is_some());
        assert!(clients.enter(client, 2).is_none());
        assert!(clients.enter("192.0.2.2".parse().unwrap(), 2).is_some(), "others are not concerned");
        drop(first);
        assert!(clients.enter(client, 2).is_some());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        let clients = Clients::default();
        let _one = clients.enter("2001:db8::1".parse().unwrap(), 1);
        assert!(clients.enter("2001:db8::2".parse().unwrap(), 1).is_none());
        assert!(clients.enter("2001:db8:0:1::1".parse().unwrap(), 1).is_some());
    }
}
