//! Nodes that do the same, told once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::origin::Kind;

use crate::answer::{Answer, Flow, Path, Place};
use crate::end::End;
use crate::world::World;

/// Puts those together that differ in the receiving node's own name and addresses only.
pub(crate) fn together(world: &World, answers: Vec<Answer>) -> Vec<Answer> {
    let mut grouped: Vec<Answer> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        let Some(node) = answer.nodes.first().cloned() else {
            grouped.push(answer);
            continue;
        };
        let shape = shape(world, &node, &answer);
        match place.get(&shape) {
            Some(at) => grouped[*at].nodes.push(node),
            None => {
                place.insert(shape, grouped.len());
                grouped.push(answer);
            }
        }
    }
    grouped
}

/// The answer without what is the node's own.
fn shape(world: &World, node: &Arc<str>, answer: &Answer) -> String {
    let mut own: Vec<IpAddr> = Vec::new();
    if let Some(facts) = world.nodes.get(node) {
        own.extend(facts.primary.iter().chain(&facts.addresses));
    }
    if let Some(known) = world.options.interfaces.get(node) {
        own.extend(known.towards.iter().map(|(_, address)| *address));
    }
    own.extend(world.peers(node).own.map(|end| end.address));
    let strip = Strip { node, own };
    let mut paths = answer.paths.clone();
    paths.iter_mut().for_each(|path| strip.path(path));
    serde_json::to_string(&paths).unwrap_or_default()
}

struct Strip<'a> {
    node: &'a Arc<str>,
    own: Vec<IpAddr>,
}

impl Strip<'_> {
    fn path(&self, path: &mut Path) {
        if path.endpoint_node.as_ref() == Some(self.node) {
            path.endpoint_node = Some("".into());
        }
        for hop in &mut path.hops {
            self.place(&mut hop.at);
            self.flow(&mut hop.before);
            hop.after.iter_mut().chain(&mut hop.outer).for_each(|flow| self.flow(flow));
        }
        for leg in &mut path.reply {
            self.place(&mut leg.at);
            self.flow(&mut leg.flow);
            leg.outer.iter_mut().for_each(|flow| self.flow(flow));
        }
        path.sees.iter_mut().for_each(|sees| self.end(&mut sees.peer));
        // Their words name addresses that stand in hops as well.
        path.verdict.why.clear();
        for mend in &mut path.mends {
            if mend.object.as_ref().is_some_and(|key| key.kind == Kind::Node && key.id.name == *self.node) {
                mend.object = None;
                mend.change.clear();
            }
        }
    }

    fn place(&self, place: &mut Place) {
        if matches!(place, Place::Node(name) if name == self.node) {
            *place = Place::Node("".into());
        }
    }

    fn flow(&self, flow: &mut Flow) {
        self.end(&mut flow.source);
        self.end(&mut flow.destination);
    }

    fn end(&self, end: &mut End) {
        let own = match end {
            End::Node(name) => name == self.node,
            End::Address(ip) => self.own.contains(ip),
            End::Socket(socket) => self.own.contains(&socket.ip()),
            _ => false,
        };
        if own {
            *end = End::Node("".into());
        }
    }
}
