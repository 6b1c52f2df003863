//! The tables in the kernel: rules loaded, elements compared and written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_model::nat::Family;
use headwater_model::transparent;
use headwater_nft::{self as nft, Batch, Element, Load, Name, NftError, Place, Remember};
use ipnet::IpNet;

use crate::elements::Placed;
use crate::plan::{Plan, difference};
use crate::ruleset::{self, Door, Pick, TABLE, Tunnel};
use crate::sets::{Id, Sets, table_of};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Elements that the kernel refuses in a row before the rest is given up.
const MOST_REFUSED: usize = 64;

/// What the constant rules depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) tunnel: Option<Tunnel>,
    /// Pods of this node.
    pub(crate) pods: Vec<IpNet>,
    /// Pods of the cluster.
    pub(crate) cluster: Vec<IpNet>,
    /// Addresses for Services.
    pub(crate) services: Vec<IpNet>,
    /// Whether gateways here connect from clients' addresses.
    pub(crate) transparent: bool,
}

impl Base {
    /// All rules, as one transaction.
    fn render(&self, picks: impl Fn(Family) -> Vec<Pick>) -> String {
        let mut text = String::new();
        for family in FAMILIES {
            text += &ruleset::family(family, self.tunnel.as_ref(), &picks(family));
            let word = if family == Family::V4 { "ip" } else { "ip6" };
            for (set, ranges) in
                [("pods", &self.pods), ("cluster_cidrs", &self.cluster), ("service_cidrs", &self.services)]
            {
                text += &format!("flush set {word} {TABLE} {set}\n");
                let own: Vec<IpNet> = ranges.iter().filter(|net| Family::of(net.addr()) == family).copied().collect();
                let own: Vec<String> = IpNet::aggregate(&own).iter().map(ToString::to_string).collect();
                if !own.is_empty() {
                    text += &format!("add element {word} {TABLE} {set} {{ {} }}\n", own.join(", "));
                }
            }
        }
        match &self.tunnel {
            Some(tunnel) => text += &ruleset::device(tunnel),
            None => text += &format!("add table netdev {TABLE}\ndelete table netdev {TABLE}\n"),
        }
        // Somebody may have made it by hand: without a word about it, it stays.
        if self.transparent {
            text += &transparent::ruleset();
        }
        text
    }
}

/// What a reconciliation found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Elements that were there and right.
    pub(crate) kept: usize,
    pub(crate) added: usize,
    pub(crate) deleted: usize,
}

/// Owner of the tables in the kernel.
#[derive(Debug)]
pub(crate) struct Tables {
    kernel: nft::Kernel,
    sets: [Sets; 2],
    /// What the next commits meet.
    #[cfg(test)]
    pub(crate) faults: crate::faults::Faults,
}

impl Tables {
    pub(crate) fn open() -> Result<Self, NftError> {
        Ok(Self {
            kernel: nft::Kernel::open()?,
            sets: FAMILIES.map(Sets::of),
            #[cfg(test)]
            faults: crate::faults::Faults::default(),
        })
    }

    /// Every change of elements goes here.
    fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        #[cfg(test)]
        if !batch.is_empty()
            && let Some(fault) = self.faults.next()
        {
            return fault.happen(|| self.kernel.apply(batch).map(drop));
        }
        self.kernel.apply(batch).map(drop)
    }

    /// Netlink port of the changes that are ours.
    pub(crate) fn port(&self) -> u32 {
        self.kernel.port()
    }

    /// Number of the ruleset's last change.
    pub(crate) fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.kernel.generation()?.id)
    }

    /// Deletes the table of the tunnel device, if there is one.
    pub(crate) fn drop_device(&mut self) -> Result<(), NftError> {
        let mut batch = Batch::new();
        let table = table_of(nft::Family::Netdev);
        batch.add_table(&table);
        batch.delete_table(&table);
        self.commit(batch)
    }

    /// The tables, for who watches them.
    pub(crate) fn names() -> [nft::Table; 4] {
        let [ip, ip6, netdev] = [nft::Family::Ip, nft::Family::Ip6, nft::Family::Netdev].map(table_of);
        let transparent = Name::new(transparent::NFT_TABLE).expect("the name is short and plain");
        [ip, ip6, netdev, nft::Table::new(nft::Family::Inet, transparent)]
    }

    /// Loads all rules anew; elements stay.
    pub(crate) fn load(&mut self, base: &Base, picks: impl Fn(Family) -> Vec<Pick>) -> Result<(), NftError> {
        nft::load(&base.render(&picks))?;
        for family in FAMILIES {
            self.remember(family, &picks(family))?;
        }
        Ok(())
    }

    fn remember(&mut self, family: Family, picks: &[Pick]) -> Result<(), NftError> {
        let mut batch = Batch::new();
        for pick in picks {
            let Pick::Remember { door, seconds } = *pick else { continue };
            let chain = Name::new(&pick.chain()).expect("names of chains are short and plain");
            let mut key = vec![Load::SourceAddress];
            if door == Door::Address {
                key.push(Load::DestinationAddress);
            }
            key.extend([Load::Protocol, Load::DestinationPort]);
            let map = self.of(family).set(Id::Sticky(door)).clone();
            let timeout = Duration::from_secs(u64::from(seconds));
            let rule = Remember { map, key, data: Load::Priority, timeout };
            batch.only_rule(&chain, &rule).expect("the key is that of the map");
        }
        self.commit(batch)
    }

    fn of(&self, family: Family) -> &Sets {
        &self.sets[usize::from(family == Family::V6)]
    }

    /// Applies a plan: its chains, then its elements all at once.
    pub(crate) fn apply(&mut self, plan: &Plan) -> Result<(), NftError> {
        for family in FAMILIES {
            let own = |(of, pick): &(Family, Pick)| (*of == family).then_some(*pick);
            let picks: Vec<Pick> = plan.picks.iter().filter_map(own).collect();
            if !picks.is_empty() {
                nft::load(&ruleset::more(family, &picks))?;
                self.remember(family, &picks)?;
            }
        }
        self.write(plan, &BTreeSet::new())
    }

    fn write(&mut self, plan: &Plan, except: &BTreeSet<Placed>) -> Result<(), NftError> {
        let mut batch = Batch::new();
        for placed in &plan.delete {
            let set = self.of(placed.family).set(placed.set);
            batch.delete(set, &placed.element.key).expect("elements are made for their sets, and fit into a batch");
        }
        for placed in plan.add.iter().filter(|placed| !except.contains(placed)) {
            let set = self.of(placed.family).set(placed.set);
            batch.add(set, &placed.element).expect("elements are made for their sets, and fit into a batch");
        }
        self.commit(batch)
    }

    /// Reads every set, and makes it what is wanted: what is right stays as it is. An element that the kernel refuses is
    /// left out and returned.
    pub(crate) fn reconcile(
        &mut self,
        wanted: Vec<Placed>,
        tunnel: bool,
    ) -> Result<(Reconciled, Vec<Placed>), NftError> {
        let mut by_set: BTreeMap<(Family, Id), Vec<Element>> = BTreeMap::new();
        let mut counted = Reconciled::default();
        for placed in wanted {
            by_set.entry((placed.family, placed.set)).or_default().push(placed.element);
        }
        let mut plan = Plan::default();
        for family in FAMILIES {
            for id in Id::ELEMENTS {
                if id == Id::Macs && !(tunnel && family == Family::V4) {
                    continue;
                }
                let wanted = by_set.remove(&(family, id)).unwrap_or_default();
                let set = self.of(family).set(id).clone();
                let found = self.kernel.dump(&set)?.elements;
                let there = found.len();
                let difference = difference(family, id, wanted, found);
                counted.kept += there - difference.delete.len();
                plan.delete.extend(difference.delete);
                plan.add.extend(difference.add);
            }
        }
        (counted.added, counted.deleted) = (plan.add.len(), plan.delete.len());
        let mut refused = BTreeSet::new();
        loop {
            match self.write(&plan, &refused) {
                Ok(()) => return Ok((counted, refused.into_iter().collect())),
                Err(NftError::Refused(refusal)) if refused.len() < MOST_REFUSED => {
                    let culprit = match &refusal.place {
                        Place::Element(set, element) => plan.add.iter().find(|placed| {
                            placed.element.key == element.key && self.of(placed.family).set(placed.set) == set
                        }),
                        _ => None,
                    };
                    match culprit {
                        Some(culprit) if !refused.contains(culprit) => refused.insert(culprit.clone()),
                        _ => return Err(NftError::Refused(refusal)),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes all tables.
    pub(crate) fn delete(&mut self) -> Result<(), NftError> {
        let mut batch = Batch::new();
        for table in Self::names() {
            batch.add_table(&table);
            batch.delete_table(&table);
        }
        self.commit(batch)
    }
}
