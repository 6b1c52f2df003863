//! What is told of Services in guides and manuals, with every implementation.

mod access;
mod balance;
mod endpoints;
mod explained;
mod health;
mod ingress;
mod replicas;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use headwater_services_tests::implementation::Implementation;
use headwater_services_tests::object::{Endpoint, Service};
use headwater_services_tests::parallel;
use headwater_services_tests::stand::{CHANGE, NAMESPACE, Stand, block_on, cluster};
use headwater_testkit::lab::Host;
use headwater_testkit::services::{Family, Outcome, Seen, Transport, ask, ask_with};
use headwater_testkit::wait;

/// Until one question of many counts as unanswered while a change is waited for. A refusal by ICMP that finds the socket
/// still in `connect` counts only when the SYN is sent again, after a second.
const SHORT: Duration = Duration::from_millis(1500);
/// So often one is asked until all endpoints have surely answered: of three, one is missed once in 10^17 times.
const OFTEN: usize = 100;

/// Each family with each protocol.
fn ways() -> impl Iterator<Item = (Family, Transport)> {
    Family::ALL.into_iter().flat_map(|family| Transport::ALL.map(|transport| (family, transport)))
}

/// A stand, and the Services that a story has made there; they go with it.
struct Story {
    stand: &'static Stand,
    made: Mutex<Vec<Service>>,
}

impl Deref for Story {
    type Target = Stand;

    fn deref(&self) -> &Stand {
        self.stand
    }
}

impl Story {
    /// Creates a Service.
    fn post(&self, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(service.clone());
        block_on(service.create(cluster()?, NAMESPACE, endpoints))
    }

    /// Creates a Service and waits until every node knows it. Some of the endpoints must answer pods.
    fn create(&self, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        self.post(service, endpoints)?;
        self.programmed(service, CHANGE)
    }

    fn end(self) -> Result<()> {
        let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.iter().try_for_each(|service| block_on(service.delete(cluster()?, NAMESPACE)))
    }
}

fn run(implementation: Implementation, story: fn(&Story) -> Result<()>) -> Result<()> {
    let stand = Story { stand: Stand::of(implementation)?, made: Mutex::default() };
    let result = story(&stand);
    if result.is_err() {
        eprintln!("{}", stand.describe());
        // What it has made stays for those who look.
        return result;
    }
    stand.end()
}

/// What a pod sees, where one must answer.
fn seen(from: &Host, source: Option<IpAddr>, target: SocketAddr, transport: Transport) -> Result<Seen> {
    let outcome = ask(from, source, target, transport)?;
    let answer = outcome.seen().with_context(|| format!("{} {transport:?} to {target}: {outcome:?}", from.name()));
    answer.cloned()
}

/// The pods that answer when one is asked often.
fn answering(
    from: &Host,
    source: Option<IpAddr>,
    target: SocketAddr,
    transport: Transport,
) -> Result<BTreeSet<String>> {
    let pods = headwater_testkit::services::tally(from, source, target, transport, OFTEN)?;
    Ok(pods.into_keys().collect())
}

/// Runs a part of a story for each item, all at the same time.
fn each<I: Sync>(items: impl IntoIterator<Item = I>, work: impl Fn(&I) -> Result<()> + Sync) -> Result<()> {
    parallel::map(&items.into_iter().collect::<Vec<_>>(), work).into_iter().collect()
}

/// Each node with each family and each protocol.
fn places(nodes: &[usize]) -> impl Iterator<Item = (usize, Family, Transport)> {
    nodes.iter().flat_map(|node| ways().map(|(family, transport)| (*node, family, transport)))
}

/// Waits until a question has such an outcome.
fn until(
    from: &Host,
    source: Option<IpAddr>,
    target: SocketAddr,
    transport: Transport,
    expected: impl Fn(&Outcome) -> bool,
) -> Result<()> {
    let source = source.map(|address| SocketAddr::new(address, 0));
    let mut last = None;
    let reached = wait::until(CHANGE, || {
        let outcome = ask_with(from, source, target, transport, SHORT);
        let holds = outcome.as_ref().is_ok_and(&expected);
        last = Some(outcome);
        holds
    });
    reached.with_context(|| format!("{} {transport:?} to {target}: at last {last:?}", from.name()))
}

/// Tests of every story with every implementation.
macro_rules! stories {
    ($($story:ident::$name:ident,)*) => {
        mod nftables {
            $(#[test] fn $name() -> anyhow::Result<()> {
                super::run(super::Implementation::Nftables, super::$story::$name)
            })*
        }
        mod iptables {
            $(#[test] fn $name() -> anyhow::Result<()> {
                super::run(super::Implementation::Iptables, super::$story::$name)
            })*
        }
        mod headwater {
            $(#[test] fn $name() -> anyhow::Result<()> {
                super::run(super::Implementation::Headwater, super::$story::$name)
            })*
        }
    };
}

stories! {
    replicas::three_replicas_on_two_nodes_answer_at_every_node,
    replicas::with_policy_local_only_nodes_with_replicas_answer_and_they_see_the_client,
    replicas::a_policy_can_be_changed_while_it_serves,
    health::the_health_check_port_tells_how_many_endpoints_are_ready_here,
    health::the_proxy_says_that_it_is_healthy_until_its_node_is_about_to_go,
    endpoints::a_service_is_refused_until_it_has_an_endpoint_and_after_it,
    endpoints::terminating_endpoints_serve_only_while_none_is_ready,
    endpoints::with_policy_local_terminating_endpoints_of_a_node_serve_while_it_has_no_ready_one,
    endpoints::not_ready_endpoints_are_used_only_when_they_are_published,
    endpoints::connections_live_on_while_other_endpoints_come_and_go,
    endpoints::udp_flows_leave_an_endpoint_that_is_gone,
    endpoints::hints_keep_traffic_in_the_zone_unless_an_endpoint_has_none,
    endpoints::hints_for_nodes_come_before_those_for_zones,
    access::source_ranges_guard_the_vip_and_nothing_else,
    access::one_client_stays_at_one_endpoint_with_session_affinity,
    access::affinity_ends_after_its_timeout,
    access::a_vip_of_ip_mode_proxy_is_left_to_the_load_balancer,
    ingress::an_ingress_behind_a_local_service_tells_the_client,
    ingress::an_ingress_behind_a_terminating_load_balancer_tells_the_client,
    balance::connections_are_spread_evenly_over_endpoints_that_nodes_have_unevenly,
}

/// Nobody explains kube-proxy.
#[test]
fn whichever_way_a_packet_takes_it_is_foretold() -> Result<()> {
    run(Implementation::Headwater, explained::whichever_way_a_packet_takes_it_is_foretold)
}
