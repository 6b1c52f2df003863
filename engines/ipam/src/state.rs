//! Who has which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use headwater_model::metallb::pool::IpAddressPoolStatus;
use headwater_model::nat::Family;
use headwater_model::origin::NamespacedName;

use crate::error::AllocationError;
use crate::occupied::{Occupied, is_buggy, usable};
use crate::pools::{Pool, Pools};
use crate::request::{Families, Port, Request, Sharing};

/// The addresses of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// One or two, of different families. The first decides which node announces both.
    pub addresses: Vec<IpAddr>,
    /// `None`: of a pool that does not count now; they stay until it does.
    pub pool: Option<Arc<str>>,
}

/// What became of a Service's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Why it lost what it had.
    pub cleared: Option<AllocationError>,
    /// What it has now, or why it has nothing.
    pub result: Result<Assignment, AllocationError>,
    /// Why the address of its second family could not be had.
    pub half: Option<AllocationError>,
}

/// Whoever has an address.
#[derive(Debug, Clone, Default)]
struct Holders {
    /// Of all of them; `None`: one alone.
    sharing: Option<Sharing>,
    services: BTreeMap<NamespacedName, BTreeSet<Port>>,
}

/// The addresses of a pool that are taken.
#[derive(Debug, Clone)]
struct Taken {
    /// For each range of the pool.
    ranges: Vec<Occupied>,
    /// Addresses that Services with the same key have, and others may share.
    shared: AHashMap<Sharing, BTreeSet<IpAddr>>,
    /// Of IPv4, of IPv6.
    assigned: [i64; 2],
    services: i64,
}

/// Every address that is given away, and to whom. One owner, one thread; every question costs at most the logarithm of
/// what is given away, and the number of addresses with the same sharing key.
#[derive(Debug, Clone, Default)]
pub struct Ipam {
    pools: Pools,
    taken: Vec<Taken>,
    holders: AHashMap<IpAddr, Holders>,
    services: AHashMap<NamespacedName, Assignment>,
    freed: u64,
}

impl Ipam {
    /// Counts on these pools from now on. Services keep what they have until they are settled again.
    pub fn configure(&mut self, pools: Pools) {
        self.taken = pools
            .iter()
            .map(|pool| Taken {
                ranges: pool.ranges.iter().map(|range| Occupied::new(*range, pool.avoid_buggy)).collect(),
                shared: AHashMap::new(),
                assigned: [0, 0],
                services: 0,
            })
            .collect();
        self.pools = pools;
        let holders = std::mem::take(&mut self.holders);
        for (address, holders) in &holders {
            self.occupy(*address, holders.sharing.as_ref());
        }
        self.holders = holders;
        for assignment in self.services.values_mut() {
            assignment.pool =
                assignment.addresses.first().and_then(|address| self.pools.of(*address)).map(|pool| pool.name.clone());
            if let Some(place) = assignment.pool.as_ref().and_then(|name| self.pools.named(name)) {
                self.taken[place].services += 1;
            }
        }
        self.freed += 1;
    }

    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What a Service has.
    pub fn assignment(&self, id: &NamespacedName) -> Option<&Assignment> {
        self.services.get(id)
    }

    /// Every Service that has addresses, in no order.
    pub fn assignments(&self) -> impl Iterator<Item = (&NamespacedName, &Assignment)> {
        self.services.iter()
    }

    /// Grows whenever an address became free, or pools changed: then Services that wait may be settled again.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Leaves a Service what its status says, where nothing is known of it yet and nothing forbids it.
    ///
    /// To start again without moving an address, adopt every Service before the first is settled: whoever is settled may
    /// take what nobody has.
    pub fn adopt(&mut self, id: &NamespacedName, request: &Request, held: &[IpAddr]) {
        if !held.is_empty() && !self.services.contains_key(id) {
            // Why not is told when it is settled.
            let _ = self.keep(id, request, held, false);
        }
    }

    /// Gives a Service what it asks for.
    ///
    /// `held`: what its status says, which counts where nothing is known of it yet.
    pub fn settle(&mut self, id: &NamespacedName, request: &Request, held: &[IpAddr]) -> Outcome {
        let known = self.release_quietly(id);
        let had = known.as_ref().map_or(held, |assignment| &assignment.addresses);
        let mut cleared = None;
        if !had.is_empty() {
            match self.keep(id, request, had, true) {
                Ok((assignment, half)) => {
                    let kept =
                        assignment.addresses.len() >= had.len() && had.iter().all(|a| assignment.addresses.contains(a));
                    self.freed += u64::from(known.is_some() && !kept);
                    return Outcome { cleared: None, result: Ok(assignment), half };
                }
                Err(error) => cleared = Some(error),
            }
        }
        let result = self.choose(id, request);
        self.freed += u64::from(known.is_some());
        let result = result.map(|(place, addresses)| self.assign(id, request, Some(place), addresses));
        let half = match (&result, request.families) {
            (Ok(assignment), Families::PreferBoth(_))
                if assignment.addresses.len() == 1 && request.addresses.is_empty() =>
            {
                let pool = assignment.pool.as_ref().and_then(|name| self.pools.named(name));
                let missing = other(Family::of(assignment.addresses[0]));
                pool.map(|place| self.pools.at(place))
                    .filter(|pool| pool.has(missing))
                    .map(|pool| AllocationError::NoneAvailableIn(pool.name.clone()))
            }
            _ => None,
        };
        Outcome { cleared, result, half }
    }

    /// Takes back what the Service has; whether it had something.
    pub fn release(&mut self, id: &NamespacedName) -> bool {
        let had = self.release_quietly(id).is_some();
        self.freed += u64::from(had);
        had
    }

    /// How full each pool is, by name, and how many Services have addresses of it.
    pub fn fill(&self) -> impl Iterator<Item = (&Pool, IpAddressPoolStatus, i64)> {
        self.pools.iter().zip(&self.taken).map(|(pool, taken)| {
            let available = |family: Family, assigned: i64| {
                let of = pool.ranges.iter().filter(|range| range.family() == family);
                let total = of.fold(0_u128, |sum, range| sum.saturating_add(usable(range, pool.avoid_buggy)));
                match i64::try_from(total).ok().filter(|total| *total < 1 << 62) {
                    Some(total) => (total - assigned).max(0),
                    None => i64::MAX,
                }
            };
            let [v4, v6] = taken.assigned;
            let status = IpAddressPoolStatus {
                assigned_ipv4: v4,
                assigned_ipv6: v6,
                available_ipv4: available(Family::V4, v4),
                available_ipv6: available(Family::V6, v6),
            };
            (pool, status, taken.services)
        })
    }

    /// Whether what a Service has may stay; then it is assigned again, and `complete` with what is missing of it.
    fn keep(
        &mut self,
        id: &NamespacedName,
        request: &Request,
        had: &[IpAddr],
        complete: bool,
    ) -> Result<(Assignment, Option<AllocationError>), AllocationError> {
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(2);
        for address in had {
            let is_new = addresses.iter().all(|kept| kept.is_ipv4() != address.is_ipv4());
            if is_new && request.families.include(Family::of(*address)) {
                addresses.push(*address);
            }
        }
        if addresses.is_empty() {
            return Err(AllocationError::OtherFamilies(had.to_vec()));
        }
        if !request.addresses.is_empty() && !same(&request.addresses, &addresses) {
            return Err(AllocationError::OtherAddresses(had.to_vec()));
        }
        let place = match self.place(&addresses) {
            Ok(place) => Some(place),
            Err(AllocationError::NotInAnyPool(_)) if self.pools.is_incomplete() => None,
            Err(error) => return Err(error),
        };
        if let (Some(wanted), Some(place)) = (&request.pool, place)
            && self.pools.at(place).name != *wanted
        {
            return Err(AllocationError::OtherPool { addresses: had.to_vec(), pool: wanted.clone() });
        }
        for address in &addresses {
            self.check_sharing(id, request, *address)?;
        }
        let mut half = None;
        if let ([one], Some(place), true) = (&addresses[..], place, complete && request.addresses.is_empty())
            && !matches!(request.families, Families::One(_))
        {
            let missing = other(Family::of(*one));
            let pool = self.pools.at(place);
            match self.lowest(place, missing, request) {
                Some(address) => addresses.push(address),
                None if request.families == Families::Both => {
                    return Err(AllocationError::NoneAvailableIn(pool.name.clone()));
                }
                None if pool.has(missing) => half = Some(AllocationError::NoneAvailableIn(pool.name.clone())),
                None => {}
            }
        }
        Ok((self.assign(id, request, place, addresses), half))
    }

    /// Addresses for a Service that has none, and the place of their pool.
    fn choose(&self, id: &NamespacedName, request: &Request) -> Result<(usize, Vec<IpAddr>), AllocationError> {
        if !request.addresses.is_empty() {
            return self.choose_requested(id, request);
        }
        if let Some(name) = &request.pool {
            let place = self.pools.named(name).ok_or_else(|| AllocationError::UnknownPool(name.clone()))?;
            if !self.pools.at(place).is_for(request) {
                return Err(AllocationError::NotForThisService(name.clone()));
            }
            return self.choose_among(&[place], request).ok_or_else(|| AllocationError::NoneAvailableIn(name.clone()));
        }
        let fitting = self.pools.in_order().iter().copied().filter(|place| self.pools.at(*place).is_for(request));
        self.choose_among(&fitting.collect::<Vec<_>>(), request).ok_or(AllocationError::NoneAvailable)
    }

    fn choose_requested(
        &self,
        id: &NamespacedName,
        request: &Request,
    ) -> Result<(usize, Vec<IpAddr>), AllocationError> {
        let wanted = &request.addresses;
        let fits = match request.families {
            Families::One(family) => wanted.len() == 1 && Family::of(wanted[0]) == family,
            Families::PreferBoth(_) => true,
            Families::Both => wanted.len() == 2,
        };
        if !fits {
            return Err(AllocationError::OtherFamilies(wanted.clone()));
        }
        let place = self.place(wanted)?;
        for address in wanted {
            self.check_sharing(id, request, *address)?;
        }
        match &request.pool {
            Some(pool) if self.pools.at(place).name != *pool => {
                Err(AllocationError::NotOfThatPool { addresses: wanted.clone(), pool: pool.clone() })
            }
            _ => Ok((place, wanted.clone())),
        }
    }

    /// The first of these pools that has what is asked for, and its lowest addresses, in the order of its ranges.
    fn choose_among(&self, places: &[usize], request: &Request) -> Option<(usize, Vec<IpAddr>)> {
        let of = |families: &[Family]| {
            places.iter().find_map(|place| {
                let mut found: Vec<(usize, IpAddr)> = Vec::with_capacity(2);
                for family in families {
                    let address = self.lowest(*place, *family, request)?;
                    let (_, range) = self.pools.place_of(address).expect("it was found in a range of the pool");
                    found.push((range, address));
                }
                found.sort_unstable();
                Some((*place, found.into_iter().map(|(_, address)| address).collect()))
            })
        };
        match request.families {
            Families::One(family) => of(&[family]),
            Families::Both => of(&[Family::V4, Family::V6]),
            Families::PreferBoth(first) => {
                of(&[Family::V4, Family::V6]).or_else(|| of(&[first])).or_else(|| of(&[other(first)]))
            }
        }
    }

    /// The lowest address of the first range of the family that has one for this Service: free, or to be shared.
    fn lowest(&self, place: usize, family: Family, request: &Request) -> Option<IpAddr> {
        let (pool, taken) = (self.pools.at(place), &self.taken[place]);
        let sharable = request.sharing_key.as_ref().and_then(|key| taken.shared.get(key));
        pool.ranges.iter().zip(&taken.ranges).filter(|(range, _)| range.family() == family).find_map(
            |(range, occupied)| {
                let free = occupied.lowest_free();
                let mut shared = sharable.into_iter().flat_map(|known| known.range(range.first()..=range.last()));
                let shared = shared.find(|address| {
                    let holders = &self.holders[*address];
                    holders.services.values().all(|ports| ports.is_disjoint(&request.ports))
                });
                [free, shared.copied()].into_iter().flatten().min()
            },
        )
    }

    /// The pool that the addresses are of, all of them.
    fn place(&self, addresses: &[IpAddr]) -> Result<usize, AllocationError> {
        let place = |address: &IpAddr| {
            let (pool, _) = self.pools.place_of(*address)?;
            (!self.pools.at(pool).avoid_buggy || !is_buggy(*address)).then_some(pool)
        };
        let places: Vec<Option<usize>> = addresses.iter().map(place).collect();
        match places[..] {
            [Some(place)] => Ok(place),
            [Some(first), Some(second)] if first == second => Ok(first),
            [Some(_), Some(_)] => Err(AllocationError::SeveralPools(addresses.to_vec())),
            _ => Err(AllocationError::NotInAnyPool(addresses.to_vec())),
        }
    }

    /// Whether the Service may have the address beside those that have it.
    fn check_sharing(&self, id: &NamespacedName, request: &Request, address: IpAddr) -> Result<(), AllocationError> {
        let Some(holders) = self.holders.get(&address) else { return Ok(()) };
        let mut others = holders.services.iter().filter(|(other, _)| *other != id);
        let Some((holder, _)) = others.clone().next() else { return Ok(()) };
        if holders.sharing.is_none() || holders.sharing != request.sharing_key {
            return Err(AllocationError::SharingKey { service: id.clone(), address, holder: holder.clone() });
        }
        match others.find_map(|(holder, ports)| Some((holder, *ports.intersection(&request.ports).next()?))) {
            Some((holder, port)) => Err(AllocationError::PortInUse { port, address, holder: holder.clone() }),
            None => Ok(()),
        }
    }

    fn assign(
        &mut self,
        id: &NamespacedName,
        request: &Request,
        place: Option<usize>,
        addresses: Vec<IpAddr>,
    ) -> Assignment {
        for address in &addresses {
            let holders = self.holders.entry(*address).or_default();
            holders.sharing.clone_from(&request.sharing_key);
            holders.services.insert(id.clone(), request.ports.clone());
            if holders.services.len() == 1 {
                self.occupy(*address, request.sharing_key.as_ref());
            }
        }
        if let Some(place) = place {
            self.taken[place].services += 1;
        }
        let pool = place.map(|place| self.pools.at(place).name.clone());
        let assignment = Assignment { addresses, pool };
        self.services.insert(id.clone(), assignment.clone());
        assignment
    }

    fn release_quietly(&mut self, id: &NamespacedName) -> Option<Assignment> {
        let assignment = self.services.remove(id)?;
        for address in &assignment.addresses {
            let holders = self.holders.get_mut(address).expect("who has an address holds it");
            holders.services.remove(id);
            if holders.services.is_empty() {
                let sharing = self.holders.remove(address).and_then(|holders| holders.sharing);
                self.vacate(*address, sharing.as_ref());
            }
        }
        if let Some(place) = assignment.pool.as_ref().and_then(|name| self.pools.named(name)) {
            self.taken[place].services -= 1;
        }
        Some(assignment)
    }

    fn occupy(&mut self, address: IpAddr, sharing: Option<&Sharing>) {
        let Some((pool, range)) = self.pools.place_of(address) else { return };
        let taken = &mut self.taken[pool];
        taken.ranges[range].take(address);
        taken.assigned[usize::from(address.is_ipv6())] += 1;
        if let Some(key) = sharing {
            taken.shared.entry(key.clone()).or_default().insert(address);
        }
    }

    fn vacate(&mut self, address: IpAddr, sharing: Option<&Sharing>) {
        let Some((pool, range)) = self.pools.place_of(address) else { return };
        let taken = &mut self.taken[pool];
        taken.ranges[range].free(address);
        taken.assigned[usize::from(address.is_ipv6())] -= 1;
        if let Some(key) = sharing
            && let Some(known) = taken.shared.get_mut(key)
        {
            known.remove(&address);
            if known.is_empty() {
                taken.shared.remove(key);
            }
        }
    }

    /// Every address that is given away, each once.
    pub fn given(&self) -> AHashSet<IpAddr> {
        self.holders.keys().copied().collect()
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

fn same(left: &[IpAddr], right: &[IpAddr]) -> bool {
    left.len() == right.len() && left.iter().all(|address| right.contains(address))
}
