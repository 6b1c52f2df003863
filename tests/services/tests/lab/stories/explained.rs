//! What `headwater explain` says where an endpoint is chosen among several.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use headwater_explain::Source;
use headwater_services_tests::object::{Endpoint, Frontend, Service};
use headwater_services_tests::parallel;
use headwater_services_tests::prediction::{Asked, agree, world};
use headwater_services_tests::scenario::Mode;
use headwater_services_tests::stand::{block_on, cluster};
use headwater_services_tests::translated::translated;
use headwater_testkit::lab::Host;
use headwater_testkit::services::{Capture, Entry, Family, Node, PATIENCE, Pod, Transport, ask_with, next_port};
use serde_json::json;

use super::{Story, ways};

/// So often each is asked, each time from another port.
const OFTEN: usize = 6;

struct Way {
    host: Host,
    source: Option<IpAddr>,
    from: Source,
    receiver: Option<String>,
    target: SocketAddr,
    transport: Transport,
    /// Whether a client is to come to the same endpoint each time.
    sticky: bool,
}

pub(super) fn whichever_way_a_packet_takes_it_is_foretold(stand: &Story) -> Result<()> {
    let pods = [stand.pod(1)?, stand.pod(1)?, stand.pod(2)?, stand.pods().host];
    let endpoints = pods.each_ref().map(Endpoint::of);
    let hinted = pods.each_ref().map(|pod| {
        let zone = format!("zone-{}", pod.node());
        Endpoint::of(pod).with(json!({ "conditions": { "ready": true }, "hints": { "forZones": [{ "name": zone }] } }))
    });
    let draining = json!({ "conditions": { "ready": false, "serving": true, "terminating": true } });
    let drained = endpoints.clone().map(|endpoint| endpoint.with(draining.clone()));
    let one_is_ready = [endpoints[0].clone(), drained[1].clone(), drained[2].clone(), drained[3].clone()];
    let known =
        [Entry::Router(2), Entry::Router(3)].into_iter().flat_map(|entry| Family::ALL.map(|of| entry.client(of)));
    let ranges: Vec<String> =
        known.map(|client| format!("{client}/{}", if client.is_ipv4() { 32 } else { 128 })).collect();
    let mut services: Vec<(Service, &[Endpoint])> = vec![
        (stand.service("local").local(), &endpoints),
        (stand.service("hinted"), &hinted),
        (stand.service("drained"), &drained),
        (stand.service("one-is-ready"), &one_is_ready),
        (stand.service("sticky").with(json!({ "sessionAffinity": "ClientIP" })), &endpoints),
        (stand.service("sticky-local").local().with(json!({ "sessionAffinity": "ClientIP" })), &endpoints),
    ];
    for guarded in [stand.service("guarded").local(), stand.service("guarded-everywhere")] {
        let mut guarded = guarded.with(json!({ "loadBalancerSourceRanges": ranges }));
        guarded.proof = Frontend::ClusterIp;
        services.push((guarded, &endpoints));
    }
    for mode in Mode::ALL {
        let mut service = stand.service(mode.as_str());
        service.annotations = json!({ "headwater.dev/source-ip": mode.as_str() });
        services.push((service, &endpoints));
    }
    for (service, endpoints) in &services {
        stand.create(service, endpoints)?;
    }

    let sticky = |service: &Service| service.name.starts_with("sticky");
    let asked = services.iter().flat_map(|(service, _)| ways_to(stand, service, sticky(service)));
    let asked: Vec<Way> = asked.collect();
    let topology = &stand.topology;
    let outside = [topology.client(), topology.router(), topology.balancer()];
    let inside = topology.nodes().iter().map(Node::host);
    let shells = stand.pods().shells;
    let capture = Capture::start(outside.into_iter().chain(inside).chain(pods.iter().chain(&shells).map(Pod::host)))?;
    let questions: Vec<(&Way, u16)> =
        asked.iter().flat_map(|way| std::iter::repeat_with(move || (way, next_port())).take(OFTEN)).collect();
    let outcomes = parallel::map(&questions, |(way, port)| -> Result<_> {
        let any = SocketAddr::new(if way.target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, *port);
        let source = way.source.map_or(any, |source| SocketAddr::new(source, *port));
        let outcome = ask_with(&way.host, Some(source), way.target, way.transport, PATIENCE)?;
        let left = match way.from {
            Source::Node(_) => translated(&way.host, way.transport, *port, way.target)?,
            _ => None,
        };
        Ok((outcome, left.unwrap_or((source, way.target))))
    });
    let flows = capture.finish()?;
    let world = block_on(world(cluster()?, topology))?;
    let (mut faults, mut answered, mut silent) = (String::new(), BTreeSet::new(), 0);
    let mut once: HashMap<(Source, SocketAddr, Transport), SocketAddr> = HashMap::new();
    for ((way, _), outcome) in questions.into_iter().zip(outcomes) {
        let (outcome, (source, left_to)) = outcome?;
        let trace = flows.trace(way.transport, way.host.name(), source, left_to, outcome.seen());
        match outcome.seen() {
            Some(seen) => drop(answered.insert(seen.pod.clone())),
            None => silent += 1,
        }
        let Way { from, receiver, target, transport, sticky, .. } = way;
        let (target, transport, receiver) = (*target, *transport, receiver.as_deref());
        let asked = Asked { from, receiver, target, transport, outcome: &outcome, trace: &trace };
        let what = || format!("{transport:?} from {from} to {target}");
        match agree(&world, &asked) {
            Err(error) => writeln!(faults, "{}: {error:#}", what())?,
            Ok(path) => {
                let remembered = path.notes.iter().any(|note| note.starts_with("sessionAffinity ClientIP: "));
                if remembered != (*sticky && outcome.seen().is_some()) {
                    writeln!(faults, "{}: of affinity it is said: {:?}", what(), path.notes)?;
                }
            }
        }
        // Which of the endpoints it is no object says; but it is one.
        if let Some(seen) = outcome.seen().filter(|_| *sticky) {
            let first = *once.entry((from.clone(), target, transport)).or_insert(seen.target);
            if first != seen.target {
                writeln!(faults, "{}: first {first} answers, then {}", what(), seen.target)?;
            }
        }
    }
    ensure!(faults.is_empty(), "explanations and packets differ:\n{faults}");
    let all: BTreeSet<String> = pods.iter().map(|pod| pod.name().to_owned()).collect();
    ensure!(answered == all && silent > 0, "{answered:?} of {all:?} answer, and {silent} times nobody");
    Ok(())
}

/// A client, the pods and the nodes, at addresses of a Service.
fn ways_to(stand: &Story, service: &Service, sticky: bool) -> Vec<Way> {
    let topology = &stand.topology;
    let mut asked = Vec::new();
    for (node, (family, transport)) in topology.nodes().iter().flat_map(|node| ways().map(move |way| (node, way))) {
        let number = node.number();
        let at = |frontend, of| service.address(topology, frontend, of, family);
        let outside = |source: IpAddr, receiver: Option<String>, target| Way {
            host: topology.client().clone(),
            source: Some(source),
            from: Source::Address(source),
            receiver,
            target,
            transport,
            sticky,
        };
        let client = Entry::Router(number).client(family);
        asked.push(outside(client, Some(node.name().to_owned()), at(Frontend::LoadBalancer, number)));
        asked.push(outside(topology.client_address(family), None, at(Frontend::NodePort, number)));
        let shell = &stand.pods().shells[number - 1];
        let pod = (shell.host(), Source::Address(shell.address(family)));
        let program = (node.host(), Source::Node(node.name().into()));
        for (host, from) in [pod, program] {
            // The next node's, too.
            let next = number % topology.nodes().len() + 1;
            for target in
                [at(Frontend::ClusterIp, number), at(Frontend::ExternalIp, number), at(Frontend::NodePort, next)]
            {
                let (host, from) = (host.clone(), from.clone());
                asked.push(Way { host, source: None, from, receiver: None, target, transport, sticky });
            }
        }
    }
    asked
}
