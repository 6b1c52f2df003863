//! What `headwater explain` says of a question, held against what became of it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use headwater_explain::{
    End, Explanation, Flow, Host, Interfaces, Options, Path, Place, Question, Scheme, Source, Target, VerdictKind,
    World, explain, render,
};
use headwater_kube_io::read_str;
use headwater_model::cluster::Change;
use headwater_testkit::cluster::Cluster;
use headwater_testkit::services::{CLUSTER_CIDR, Family, Hop, Outcome, SERVICE_CIDR, Seen, Topology, Trace, Transport};
use serde_json::{Value, json};

/// What explanations are made of.
const LISTS: [(&str, &str, &str); 3] = [
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/services", "v1", "Service"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
];
/// The device of the tunnel.
const TUNNEL: &str = "hwvx";

/// A question that was asked, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who asked.
    pub from: &'a Source,
    /// The node that received the packet, where neither the asker nor the address tells.
    pub receiver: Option<&'a str>,
    /// What was asked.
    pub target: SocketAddr,
    /// By which protocol.
    pub transport: Transport,
    /// What the asker knows.
    pub outcome: &'a Outcome,
    /// Where its packets were.
    pub trace: &'a Trace,
}

/// The objects of the API server as they are now, and the topology's addresses of which they do not tell.
///
/// # Errors
/// When an object cannot be read.
pub async fn world(cluster: &Cluster, topology: &Topology<'_>) -> Result<World> {
    let mut objects = Vec::new();
    for (path, version, kind) in LISTS {
        let mut list = cluster.get(path).await?;
        for object in list["items"].as_array_mut().with_context(|| format!("{path} is no list"))? {
            // As `kubectl get -o json` has it.
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            object["metadata"].as_object_mut().context("metadata")?.remove("managedFields");
            objects.push(object.take());
        }
    }
    let list: Value = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let reading = read_str("API server", &list.to_string());
    ensure!(reading.findings.is_empty(), "the API server's objects: {:#?}", reading.findings);
    let mut cluster = headwater_model::cluster::Cluster::default();
    for (object, _) in reading.objects {
        cluster.apply(&Change::Set(object));
    }
    let ranges = |text: &str| text.split(',').map(|range| Ok(range.parse()?)).collect::<Result<_>>();
    let services = headwater_service_nat::Options {
        cluster_cidrs: ranges(CLUSTER_CIDR)?,
        service_cidrs: ranges(SERVICE_CIDR)?,
        ..headwater_service_nat::Options::default()
    };
    let interfaces = topology.nodes().iter().map(|node| {
        let towards = |family| anyhow::Ok((node.pod_cidr(family).parse()?, node.gateway(family)));
        let known = Interfaces {
            addresses: Family::ALL.map(|family| node.gateway(family)).into(),
            towards: Family::ALL.into_iter().map(towards).collect::<Result<_>>()?,
        };
        Ok((Arc::from(node.name()), known))
    });
    let interfaces = interfaces.collect::<Result<_>>()?;
    Ok(World::new(cluster, Options { services, interfaces, ..Options::default() }))
}

/// Compares the explanation with what happened: whether somebody answers, which source is seen, whether an endpoint that
/// answers is one of those that are named, the packet on every node that it passes, its answer as it leaves every node,
/// and what is around both in the tunnel. Returns the way that it has taken.
///
/// # Errors
/// When they differ.
pub fn agree(world: &World, asked: &Asked<'_>) -> Result<Path> {
    let scheme = match asked.transport {
        Transport::Tcp => Scheme::Tcp,
        Transport::Udp => Scheme::Udp,
    };
    let (host, port) = (Host::Address(asked.target.ip()), asked.target.port());
    let target = Target { scheme, host, port, path: String::new() };
    let question = Question { node: asked.receiver.map(Into::into), ..Question::new(asked.from.clone(), target) };
    let explanation = explain(world, &question);
    compare(world, asked, &explanation).cloned().with_context(|| {
        format!("it is said:\n{}\nand seen: {:?}\n{:#?}", render(&explanation), asked.outcome, asked.trace)
    })
}

fn compare<'a>(world: &World, asked: &Asked<'_>, explanation: &'a Explanation) -> Result<&'a Path> {
    let [answer] = &explanation.answers[..] else { bail!("there is not one answer") };
    let reaches = |path: &&Path| match asked.outcome {
        Outcome::Seen(seen) => path.endpoints.contains(&seen.target),
        _ => path.endpoints.is_empty(),
    };
    let paths: Vec<&Path> = answer.paths.iter().filter(reaches).collect();
    let [path] = paths[..] else { bail!("of {} ways {} lead there", answer.paths.len(), paths.len()) };
    match (asked.outcome, path.verdict.kind) {
        (Outcome::Seen(seen), kind @ (VerdictKind::Kept | VerdictKind::Lost)) => {
            let peer = path.sees.as_ref().and_then(|sees| sees.peer.ip());
            ensure!(peer == Some(seen.source.ip()), "the source is said to be {peer:?}");
            let kept = match asked.from {
                Source::Address(address) => seen.source.ip() == *address,
                // Whichever of its addresses a node takes, it is the node.
                Source::Node(name) => world.owner(seen.source.ip()) == Some(name),
            };
            ensure!(kept == (kind == VerdictKind::Kept), "the client is said to be {kind:?}");
        }
        (Outcome::Refused, VerdictKind::Refused) | (Outcome::Silent, VerdictKind::Dropped) => {}
        (Outcome::Refused | Outcome::Silent, VerdictKind::NotAService) => {
            return untouched(asked).map(|()| path);
        }
        (_, kind) => bail!("the end is said to be {kind:?}"),
    }
    stays(asked, path)?;
    reply(asked, path).context("on the way back")?;
    Ok(path)
}

/// No Service has to do with it: nobody listens at the node's own addresses, and the router ends what is for others.
fn untouched(asked: &Asked<'_>) -> Result<()> {
    let own = asked.target.ip().is_loopback();
    let expected = if own { Outcome::Refused } else { Outcome::Silent };
    ensure!(*asked.outcome == expected, "nobody has it");
    let hops = &asked.trace.hops;
    let first = hops.first();
    let same = |hop: &Hop| first.is_some_and(|first| (first.source, first.target) == (hop.source, hop.target));
    ensure!(hops.iter().all(same), "it is changed");
    Ok(())
}

/// What was seen of a packet on a node from its coming to its going.
struct Stay<'a> {
    node: &'a str,
    /// `None` where it begins there.
    came: Option<&'a Hop>,
    /// `None` where it ends there.
    left: Option<&'a Hop>,
}

fn on_nodes(hops: &[Hop]) -> impl Iterator<Item = Stay<'_>> {
    let on_nodes = hops.chunk_by(|one, other| one.host == other.host).filter(|hops| hops[0].host.starts_with("node-"));
    on_nodes.map(|hops| Stay {
        node: &hops[0].host,
        came: hops.first().filter(|hop| !hop.out),
        left: hops.iter().rfind(|hop| hop.out),
    })
}

/// Whether it leaves by the tunnel if that is said, and in which packet.
fn around(said: Option<&Flow>, stay: &Stay<'_>, outer: &[Hop]) -> Result<()> {
    let tunnel = stay.left.is_some_and(|left| left.interface == TUNNEL);
    ensure!(tunnel == said.is_some(), "it {} by tunnel", if tunnel { "is" } else { "is not" });
    let Some(said) = said else { return Ok(()) };
    let sent: Vec<&Hop> = outer.iter().filter(|hop| hop.out && hop.host == stay.node).collect();
    ensure!(!sent.is_empty(), "what is around it is not seen");
    for outer in &sent {
        same(said, outer.source, outer.target, None).context("around it")?;
    }
    let arrived = |sent: &Hop| {
        outer
            .iter()
            .any(|hop| !hop.out && hop.host != stay.node && (hop.source, hop.target) == (sent.source, sent.target))
    };
    ensure!(sent.into_iter().all(arrived), "what is around it does not arrive");
    Ok(())
}

/// The first answer, as it leaves the nodes.
fn reply(asked: &Asked<'_>, path: &Path) -> Result<()> {
    let Some(seen) = asked.outcome.seen() else {
        ensure!(path.reply.is_empty(), "an answer is foretold");
        return Ok(());
    };
    let mut observed = on_nodes(&asked.trace.reply);
    for (index, leg) in path.reply.iter().enumerate() {
        let leg_of = || format!("leg {}", index + 1);
        let Place::Node(node) = &leg.at else { bail!("{} is at {:?}", leg_of(), leg.at) };
        let stay = observed.next().with_context(|| format!("{} is not seen", leg_of()))?;
        ensure!(stay.node == &**node, "{} is at {}", leg_of(), stay.node);
        if index + 1 == path.reply.len() && *asked.from == Source::Node(node.clone()) {
            // It ends there: who asked has taken it for the answer of whom it asked.
            ensure!(is(&leg.flow.source, asked.target, None), "{} is said to come from {}", leg_of(), leg.flow.source);
            continue;
        }
        let left = stay.left.with_context(|| format!("{} does not leave", leg_of()))?;
        same(&leg.flow, left.source, left.target, Some(seen)).with_context(leg_of)?;
        around(leg.outer.as_ref(), &stay, &asked.trace.reply_outer).with_context(leg_of)?;
    }
    match observed.next() {
        Some(more) => bail!("it comes to {} as well", more.node),
        None => Ok(()),
    }
}

fn stays(asked: &Asked<'_>, path: &Path) -> Result<()> {
    let seen = asked.outcome.seen();
    let mut observed = on_nodes(&asked.trace.hops);
    for (index, hop) in path.hops.iter().enumerate() {
        let Place::Node(node) = &hop.at else { bail!("hop {} is at {:?}", index + 1, hop.at) };
        let begins = index == 0 && matches!(asked.from, Source::Node(_));
        if begins && hop.after.is_none() {
            // It ends before it is seen.
            continue;
        }
        let stay = observed.next().with_context(|| format!("hop {} is not seen", index + 1))?;
        ensure!(stay.node == &**node, "hop {} is at {}", index + 1, stay.node);
        ensure!(
            stay.came.is_none() == begins,
            "hop {} {} there",
            index + 1,
            if begins { "does not begin" } else { "begins" }
        );
        if let Some(came) = stay.came {
            same(&hop.before, came.source, came.target, seen).with_context(|| format!("hop {} before", index + 1))?;
        }
        around(hop.outer.as_ref(), &stay, &asked.trace.outer).with_context(|| format!("hop {}", index + 1))?;
        let last = index + 1 == path.hops.len();
        match (&hop.after, stay.left) {
            (Some(after), Some(left)) => same(after, left.source, left.target, seen),
            // A program in the node's own network takes it.
            (Some(after), None) if last => match seen {
                Some(taken) => same(after, taken.source, taken.target, seen),
                None => bail!("nobody takes it"),
            },
            (Some(_), None) => bail!("it does not leave"),
            (None, Some(_)) => bail!("it leaves"),
            (None, None) => Ok(()),
        }
        .with_context(|| format!("hop {} after", index + 1))?;
    }
    match observed.next() {
        Some(more) => bail!("it comes to {} as well", more.node),
        None => Ok(()),
    }
}

fn same(flow: &Flow, source: SocketAddr, target: SocketAddr, seen: Option<&Seen>) -> Result<()> {
    ensure!(
        is(&flow.source, source, seen) && is(&flow.destination, target, seen),
        "{} -> {} is said, and {source} -> {target} seen",
        flow.source,
        flow.destination
    );
    Ok(())
}

fn is(end: &End, socket: SocketAddr, seen: Option<&Seen>) -> bool {
    match end {
        End::Socket(said) => *said == socket,
        End::Endpoint => seen.is_some_and(|seen| seen.target == socket),
        // Its port is chosen anew each time.
        End::Address(said) => *said == socket.ip(),
        _ => false,
    }
}
