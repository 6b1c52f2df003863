//! Which addresses of a range are taken.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headwater_model::metallb::AddressRange;

/// The addresses of a range that are taken, as runs without a gap. Every operation costs the logarithm of their number.
#[derive(Debug, Clone)]
pub(crate) struct Occupied {
    range: AddressRange,
    first: u128,
    last: u128,
    /// IPv4 addresses that end with .0 or .255 are never given: those beside a run belong to it.
    avoid_buggy: bool,
    /// First and last of each run; no two touch.
    runs: BTreeMap<u128, u128>,
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Whether some devices take the address for that of a network or a broadcast.
pub(crate) fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if matches!(address.octets()[3], 0 | 255))
}

impl Occupied {
    pub(crate) fn new(range: AddressRange, avoid_buggy: bool) -> Self {
        let (first, last) = (number(range.first()), number(range.last()));
        let mut new = Self { range, first, last, avoid_buggy, runs: BTreeMap::new() };
        new.fill(first);
        new
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.range.first() {
            // Numbers come from addresses of the range.
            IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    fn is_never_given(&self, number: u128) -> bool {
        self.avoid_buggy && is_buggy(self.address(number))
    }

    /// The lowest address that nobody has.
    pub(crate) fn lowest_free(&self) -> Option<IpAddr> {
        let free = match self.runs.first_key_value() {
            Some((start, end)) if *start == self.first => end.checked_add(1)?,
            _ => self.first,
        };
        (free <= self.last).then(|| self.address(free))
    }

    pub(crate) fn take(&mut self, address: IpAddr) {
        let number = number(address);
        if !(self.first..=self.last).contains(&number) || self.is_taken(number) {
            return;
        }
        self.insert(number);
        if let Some(next) = number.checked_add(1) {
            self.fill(next);
        }
    }

    /// Takes what is never given, from here on.
    fn fill(&mut self, mut number: u128) {
        while number <= self.last && self.is_never_given(number) && !self.is_taken(number) {
            self.insert(number);
            let Some(next) = number.checked_add(1) else { return };
            number = next;
        }
    }

    fn is_taken(&self, number: u128) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, end)| number <= *end)
    }

    fn insert(&mut self, number: u128) {
        let (mut start, mut end) = (number, number);
        if let Some((before, last)) = self.runs.range(..number).next_back()
            && last.checked_add(1) == Some(number)
        {
            start = *before;
        }
        if let Some(next) = number.checked_add(1)
            && let Some(last) = self.runs.remove(&next)
        {
            end = last;
        }
        self.runs.insert(start, end);
    }

    pub(crate) fn free(&mut self, address: IpAddr) {
        let number = number(address);
        if self.is_never_given(number) {
            return;
        }
        let Some((start, end)) = self.runs.range(..=number).next_back().map(|(start, end)| (*start, *end)) else {
            return;
        };
        if number > end {
            return;
        }
        self.runs.remove(&start);
        if start < number {
            self.runs.insert(start, number - 1);
        }
        if number < end {
            self.runs.insert(number + 1, end);
        }
        // A run that begins the range shall begin with what is never given.
        self.fill(self.first);
    }
}

/// How many addresses of a range may be given.
pub(crate) fn usable(range: &AddressRange, avoid_buggy: bool) -> u128 {
    let (IpAddr::V4(first), IpAddr::V4(last), true) = (range.first(), range.last(), avoid_buggy) else {
        return range.size();
    };
    // Up to a number, how many end with 0 and how many with 255.
    let buggy_below = |end: u64| end.div_ceil(256) + end / 256;
    let (first, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
    range.size() - u128::from(buggy_below(last + 1) - buggy_below(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupied(range: &str, avoid_buggy: bool) -> Occupied {
        Occupied::new(AddressRange::parse(range).unwrap(), avoid_buggy)
    }

    /// Takes the lowest until none is left.
    fn drain(occupied: &mut Occupied) -> Vec<String> {
        let mut given = Vec::new();
        while let Some(address) = occupied.lowest_free() {
            occupied.take(address);
            given.push(address.to_string());
        }
        given
    }

    #[test]
    fn the_lowest_free_address_is_given_and_every_address_once() {
        let mut range = occupied("10.0.0.254-10.0.1.1", false);
        assert_eq!(drain(&mut range), ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]);
        for address in ["10.0.1.0", "10.0.0.254"] {
            range.free(address.parse().unwrap());
        }
        assert_eq!(drain(&mut range), ["10.0.0.254", "10.0.1.0"]);
    }

    #[test]
    fn buggy_addresses_are_never_given_and_count_as_none() {
        for (range, given) in [
            ("10.0.0.254-10.0.1.1", vec!["10.0.0.254", "10.0.1.1"]),
            ("10.0.0.255-10.0.1.0", vec![]),
            ("10.0.0.0-10.0.0.2", vec!["10.0.0.1", "10.0.0.2"]),
            ("10.0.0.0/32", vec![]),
            ("fc00::ff-fc00::100", vec!["fc00::ff", "fc00::100"]),
        ] {
            let mut found = occupied(range, true);
            assert_eq!(drain(&mut found), given, "{range}");
            assert_eq!(usable(&found.range, true), given.len() as u128, "{range}");
            for address in given.iter().rev() {
                found.free(address.parse().unwrap());
            }
            assert_eq!(drain(&mut found), given, "{range}, a second time");
        }
        assert_eq!(usable(&AddressRange::parse("0.0.0.0/0").unwrap(), true), (1 << 32) - (1 << 25));
    }

    #[test]
    fn the_last_address_of_all_can_be_given() {
        let mut range = occupied("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", false);
        assert_eq!(drain(&mut range).len(), 2);
        let mut range = occupied("255.255.255.254-255.255.255.255", true);
        assert_eq!(drain(&mut range), ["255.255.255.254"]);
        let range = occupied("::/0", false);
        assert_eq!(range.lowest_free(), Some("::".parse().unwrap()));
    }
}
