//! Pools in use, each with a number that stays while it lives.

use std::sync::Arc;

use ahash::AHashMap as HashMap;
use headwater_model::client::EmitProxyProtocol;
use headwater_model::gateway::{Pool, PoolId, Pools};
use headwater_model::origin::NamespacedName;

use crate::auth::Server;
use crate::environment::GatewayId;
use crate::service::{Speech, Target};

/// What makes two backends use one pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolKey {
    /// Health, keep-alive and PROXY settings are those of the gateway.
    pub(crate) gateway: GatewayId,
    pub(crate) service: NamespacedName,
    pub(crate) port: u16,
    pub(crate) speech: Speech,
    /// A host outside the Services: an auth server.
    pub(crate) host: Option<Box<str>>,
    /// In the place of the gateway's.
    pub(crate) emit_proxy_protocol: Option<EmitProxyProtocol>,
}

impl PoolKey {
    pub(crate) fn new(gateway: &GatewayId, service: &NamespacedName, target: Target) -> Self {
        let (port, speech) = (target.port, target.speech);
        Self { gateway: gateway.clone(), service: service.clone(), port, speech, host: None, emit_proxy_protocol: None }
    }

    /// The pool of an auth server, named after its host and the namespace that asks for it.
    pub(crate) fn of_server(gateway: &GatewayId, namespace: &str, server: &Server) -> Self {
        Self {
            gateway: gateway.clone(),
            service: NamespacedName::new(namespace, &*server.host),
            port: server.port,
            speech: if server.tls { Speech::Https } else { Speech::Http },
            host: Some(server.host.clone()),
            emit_proxy_protocol: None,
        }
    }
}

#[derive(Debug)]
struct Slot {
    key: PoolKey,
    users: usize,
}

/// Reference-counted. Numbers are freed by [`PoolRegistry::sweep`], which ends a translation, so that a number is given
/// to another pool only in a later one.
#[derive(Debug, Default)]
pub(crate) struct PoolRegistry {
    ids: HashMap<PoolKey, PoolId>,
    slots: Vec<Option<Slot>>,
    /// Parallel to `slots`.
    pub(crate) published: Pools,
    by_service: HashMap<NamespacedName, Vec<PoolId>>,
    free: Vec<PoolId>,
    /// To be built, sorted by nobody.
    pub(crate) dirty: Vec<PoolId>,
    pub(crate) changed: bool,
}

impl PoolRegistry {
    pub(crate) fn begin(&mut self) {
        // Small numbers first, so that the table stays short.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.changed = false;
    }

    /// The pool's number; counts one user.
    pub(crate) fn acquire(&mut self, key: PoolKey) -> PoolId {
        if let Some(id) = self.ids.get(&key) {
            if let Some(slot) = &mut self.slots[id.0 as usize] {
                slot.users += 1;
            }
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.published.0.push(None);
            PoolId(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 pools fit in memory"))
        });
        self.by_service.entry(key.service.clone()).or_default().push(id);
        self.ids.insert(key.clone(), id);
        self.slots[id.0 as usize] = Some(Slot { key, users: 1 });
        self.dirty.push(id);
        id
    }

    /// One user less. The slot is emptied by [`Self::sweep`], so that a pool may change hands within a translation.
    pub(crate) fn release(&mut self, id: PoolId) {
        if let Some(slot) = &mut self.slots[id.0 as usize] {
            slot.users -= 1;
            if slot.users == 0 {
                self.dirty.push(id);
            }
        }
    }

    pub(crate) fn mark_service(&mut self, service: &NamespacedName) {
        self.dirty.extend(self.by_service.get(service).into_iter().flatten());
    }

    pub(crate) fn mark_all(&mut self) {
        self.dirty.extend(self.ids.values());
    }

    /// Rebuilds what is dirty and drops what nobody uses; `build` makes a pool, `gone` hears of those dropped.
    pub(crate) fn sweep(&mut self, mut build: impl FnMut(&PoolKey) -> Option<Pool>, mut gone: impl FnMut(&PoolKey)) {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        for id in dirty {
            let place = id.0 as usize;
            let Some(slot) = &self.slots[place] else { continue };
            if slot.users > 0 {
                let pool = build(&slot.key);
                if self.published.0[place].as_deref() != pool.as_ref() {
                    self.published.0[place] = pool.map(Arc::new);
                    self.changed = true;
                }
                continue;
            }
            gone(&slot.key);
            if let Some(ids) = self.by_service.get_mut(&slot.key.service) {
                ids.retain(|known| *known != id);
                if ids.is_empty() {
                    self.by_service.remove(&slot.key.service);
                }
            }
            self.ids.remove(&slot.key);
            self.slots[place] = None;
            self.published.0[place] = None;
            self.free.push(id);
            self.changed = true;
        }
    }
}
