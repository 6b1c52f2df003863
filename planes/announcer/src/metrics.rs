//! What all ways of announcing count together.

use std::net::IpAddr;
use std::sync::Arc;

use headwater_process::metrics::{GaugeShard, Registry, ShardedGauge};

/// Names and values.
type Labels = Vec<(&'static str, String)>;

/// `metallb_speaker_announced`: 1 for each address of each Service that this node announces.
#[derive(Clone)]
pub struct SpeakerAnnounced {
    family: ShardedGauge<Labels>,
    node: Arc<str>,
}

impl SpeakerAnnounced {
    /// `registry` without a prefix: the name is MetalLB's.
    pub fn new(registry: &Registry, node: Arc<str>) -> Self {
        Self { family: registry.gauges("metallb_speaker_announced", "Services announced from this node"), node }
    }

    /// The part of one way of announcing; `protocol`: `layer2` or `bgp`.
    pub(crate) fn of(&self, protocol: &'static str) -> Announced {
        Announced { all: self.clone(), protocol, shown: Vec::new() }
    }
}

/// What one way of announcing shows.
pub(crate) struct Announced {
    all: SpeakerAnnounced,
    protocol: &'static str,
    shown: Vec<GaugeShard>,
}

impl Announced {
    /// These addresses of Services, and no others.
    pub(crate) fn show<'a>(&mut self, announced: impl IntoIterator<Item = (String, &'a IpAddr)>) {
        let protocol = ("protocol", self.protocol.to_owned());
        self.all.family.retain(|labels| !labels.contains(&protocol));
        let show = |(service, ip): (String, &IpAddr)| {
            let (node, ip) = (self.all.node.to_string(), ip.to_string());
            let shard =
                self.all.family.shard(&vec![("service", service), protocol.clone(), ("node", node), ("ip", ip)]);
            shard.set(1);
            shard
        };
        self.shown = announced.into_iter().map(show).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_announcing_shows_its_own_and_leaves_the_other() {
        let registry = Registry::bare();
        let all = SpeakerAnnounced::new(&registry, "node-1".into());
        let (mut layer2, mut bgp) = (all.of("layer2"), all.of("bgp"));
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let line = |protocol: &str, ip: &str| {
            format!(
                "metallb_speaker_announced{{service=\"n/web\",protocol=\"{protocol}\",node=\"node-1\",ip=\"{ip}\"}} 1"
            )
        };
        layer2.show([("n/web".to_owned(), &one)]);
        bgp.show([("n/web".to_owned(), &one), ("n/web".to_owned(), &two)]);
        bgp.show([("n/web".to_owned(), &two)]);
        let text = registry.encode_classic();
        let mut lines: Vec<&str> = text.lines().filter(|line| line.ends_with(" 1")).collect();
        lines.sort_unstable();
        assert_eq!(lines, [line("bgp", "192.0.2.2"), line("layer2", "192.0.2.1")]);
    }
}
