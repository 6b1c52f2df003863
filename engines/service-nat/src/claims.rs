//! Who owns an address and port, or a NodePort, that several Services want.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use headwater_model::nat::Transport;
use headwater_model::origin::NamespacedName;

use crate::intent::Intent;

/// What only one Service port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    Address(SocketAddr, Transport),
    /// A port at the node's own addresses.
    Node(u16, Transport),
}

/// One who wants it; the smallest has it.
///
/// Order: cluster IPs, which the API server gave out, before addresses that users or load balancers wrote; then
/// `creationTimestamp` (an object without one counts as youngest), namespace and name, place in the Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) written: bool,
    /// Microseconds since the epoch.
    pub(crate) created: i64,
    pub(crate) id: NamespacedName,
    /// Index of the port; `u32::MAX` for the health check.
    pub(crate) place: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<Claim, Vec<Holder>>);

impl Claims {
    pub(crate) fn winner(&self, claim: Claim) -> Option<&Holder> {
        self.0.get(&claim)?.first()
    }

    /// Replaces what one Service asks for, `None` for nothing, and with it what it wants to own. Calls `affected` as
    /// [`Self::replace`] does.
    pub(crate) fn replace_intent(
        &mut self,
        id: &NamespacedName,
        new: Option<Intent>,
        intents: &mut BTreeMap<NamespacedName, Intent>,
        affected: impl FnMut(&NamespacedName),
    ) {
        let wants = |intent: Option<&Intent>| intent.map(Intent::claims).unwrap_or_default();
        let old = wants(intents.remove(id).as_ref());
        self.replace(&old, &wants(new.as_ref()), affected);
        intents.extend(new.map(|new| (id.clone(), new)));
    }

    /// Replaces what one Service wants. Calls `affected` for every other Service that wants something whose owner
    /// changed.
    fn replace(&mut self, old: &[(Claim, Holder)], new: &[(Claim, Holder)], mut affected: impl FnMut(&NamespacedName)) {
        if old == new {
            return;
        }
        let mut before: BTreeMap<Claim, Option<Holder>> = BTreeMap::new();
        for (claim, _) in old.iter().chain(new) {
            before.entry(*claim).or_insert_with(|| self.winner(*claim).cloned());
        }
        for (claim, holder) in old {
            let Some(holders) = self.0.get_mut(claim) else { continue };
            if let Ok(at) = holders.binary_search(holder) {
                holders.remove(at);
            }
            if holders.is_empty() {
                self.0.remove(claim);
            }
        }
        for (claim, holder) in new {
            let holders = self.0.entry(*claim).or_default();
            if let Err(at) = holders.binary_search(holder) {
                holders.insert(at, holder.clone());
            }
        }
        for (claim, winner) in before {
            let Some(holders) = self.0.get(&claim) else { continue };
            if holders.first() != winner.as_ref() {
                holders.iter().for_each(|holder| affected(&holder.id));
            }
        }
    }
}
