//! IPAddressPools together: which of them count, and in which order they are tried.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::finding::Finding;
use headwater_model::metallb::judge::judge_pools;
use headwater_model::metallb::pool::ServiceAllocation;
use headwater_model::metallb::{AddressRange, IpAddressPool};
use headwater_model::nat::Family;
use headwater_model::origin::NamespacedName;

use crate::request::Request;

/// A pool that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub id: NamespacedName,
    pub name: Arc<str>,
    pub ranges: Vec<AddressRange>,
    pub auto_assign: bool,
    pub avoid_buggy: bool,
    pub allocation: Option<ServiceAllocation>,
}

impl Pool {
    /// Whether it has addresses of the family, free or not.
    pub fn has(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }

    /// Whether a Service may get addresses of it.
    pub(crate) fn is_for(&self, request: &Request) -> bool {
        let Some(allocation) = &self.allocation else { return true };
        let ServiceAllocation { namespaces, namespace_selectors, service_selectors, .. } = allocation;
        let anywhere = namespaces.is_empty() && namespace_selectors.is_empty();
        let here = namespaces.iter().any(|namespace| **namespace == *request.namespace)
            || namespace_selectors.iter().any(|selector| selector.matches(&request.namespace_labels));
        let this =
            service_selectors.is_empty() || service_selectors.iter().any(|selector| selector.matches(&request.labels));
        (anywhere || here) && this
    }

    /// Pools with a smaller one are tried first.
    fn rank(&self) -> (u8, i64) {
        match &self.allocation {
            Some(allocation) if allocation.priority > 0 => (0, allocation.priority),
            Some(_) => (1, 0),
            None => (2, 0),
        }
    }
}

/// The pools that count, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pools {
    pools: Vec<Pool>,
    /// Places in `pools`, in the order in which they are tried.
    order: Vec<usize>,
    /// Where ranges begin: the place of the pool, the place of the range in it.
    starts: BTreeMap<(Family, u128), (usize, usize)>,
    incomplete: bool,
}

impl Pools {
    /// Takes the pools that make sense, and tells what is wrong with the others: see [`judge_pools`].
    ///
    /// `unread`: whether there are pools that could not be read at all.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Arc<IpAddressPool>>, unread: bool) -> (Self, Vec<Finding>) {
        let objects: Vec<&Arc<IpAddressPool>> = objects.into_iter().collect();
        let given = objects.len();
        let (objects, findings) = judge_pools(objects);
        let incomplete = unread || objects.len() < given;
        let mut pools: Vec<Pool> = objects
            .into_iter()
            .map(|object| Pool {
                id: object.id(),
                name: object.metadata.name.clone(),
                ranges: object.spec.addresses.clone(),
                auto_assign: object.spec.auto_assign,
                avoid_buggy: object.spec.avoid_buggy_ips,
                allocation: object.spec.service_allocation.clone(),
            })
            .collect();
        pools.sort_by(|left, right| left.name.cmp(&right.name));
        let mut order: Vec<usize> = (0..pools.len()).filter(|place| pools[*place].auto_assign).collect();
        // Stable, and they are by name: ties are too.
        order.sort_by_key(|place| pools[*place].rank());
        let starts = pools.iter().enumerate().flat_map(|(place, pool)| {
            pool.ranges.iter().enumerate().map(move |(index, range)| (start(range), (place, index)))
        });
        let starts = starts.collect();
        (Self { pools, order, starts, incomplete }, findings)
    }

    /// Every pool that counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Whether there are pools that do not count: then an address outside of all others may be one of theirs.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    pub(crate) fn at(&self, place: usize) -> &Pool {
        &self.pools[place]
    }

    pub(crate) fn named(&self, name: &str) -> Option<usize> {
        self.pools.binary_search_by(|pool| (*pool.name).cmp(name)).ok()
    }

    /// Pools for Services that name none, in the order in which they are tried.
    pub(crate) fn in_order(&self) -> &[usize] {
        &self.order
    }

    /// The place of the address: of its pool, and of its range in it. Addresses that are never given have one too.
    pub(crate) fn place_of(&self, address: IpAddr) -> Option<(usize, usize)> {
        let key = (Family::of(address), crate::occupied::number(address));
        let (_, (pool, range)) = self.starts.range(..=key).next_back()?;
        self.pools[*pool].ranges[*range].contains(address).then_some((*pool, *range))
    }

    /// The pool that an address is of.
    pub fn of(&self, address: IpAddr) -> Option<&Pool> {
        self.place_of(address).map(|(pool, _)| &self.pools[pool])
    }
}

fn start(range: &AddressRange) -> (Family, u128) {
    (range.family(), crate::occupied::number(range.first()))
}
