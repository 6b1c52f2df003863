//! From objects as a user writes them to what routers know.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_announcer::bgp::{BgpAnnouncer, BgpState};
use headwater_announcer::metrics::SpeakerAnnounced;
use headwater_announcer::objects::{Objects, WAITING_BATCHES};
use headwater_bgp::{PeerAsn, State};
use headwater_kube_io::{Batch, DirectorySource, read_str};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::metallb::judge::judge;
use headwater_process::metrics::Registry;
use headwater_testkit::lab::{self, Host};
use headwater_testkit::wait;
use headwater_translate::announce::{AnnounceOptions, Announcer};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::node::{Node, PATIENCE, PEER, internal, peer};
use crate::router::{Kind, Neighbour, Router};
use crate::sessions::{neighbour, pair};

/// The plane of BGP on a host, by objects.
struct Whole {
    host: Host,
    runtime: Runtime,
    announcer: Option<BgpAnnouncer>,
    _objects: Objects,
    /// What more objects would come by: as long as it is there, the plane runs.
    _tell: mpsc::Sender<Batch>,
}

impl Whole {
    fn start(host: &Host, node: &str, text: &str) -> Result<Self> {
        let (runtime, announcer, objects, tell) = host.run(|| -> Result<_> {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let directory = tempfile::tempdir()?;
            std::fs::write(directory.path().join("all.yaml"), text)?;
            let (batch, _source) = runtime.block_on(DirectorySource::start(directory.path()))?;
            ensure!(batch.findings.is_empty(), "{:?}", batch.findings);
            let (tell, batches) = mpsc::channel(WAITING_BATCHES);
            let (announcer, objects) = runtime.block_on(async {
                let options = AnnounceOptions { node: node.into(), ..AnnounceOptions::default() };
                let objects = Objects::follow(batches, options, "metallb-system".to_owned());
                tell.send(batch).await?;
                let announced = SpeakerAnnounced::new(&Registry::bare(), node.into());
                let (vips, routers) = (objects.announcements(), objects.routers());
                let announcer = BgpAnnouncer::start(vips, routers, node.into(), None, 7, None, &announced)?;
                anyhow::Ok((announcer, objects))
            })?;
            Ok((runtime, announcer, objects, tell))
        })?;
        Ok(Self { host: host.clone(), runtime, announcer: Some(announcer), _objects: objects, _tell: tell })
    }

    fn state(&self) -> std::sync::Arc<BgpState> {
        self.announcer.as_ref().map(|announcer| announcer.state().borrow().clone()).unwrap_or_default()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let (runtime, announcer) = (&self.runtime, self.announcer.take());
        self.host.run(|| runtime.block_on(async { drop(announcer) }));
    }
}

/// A Node, and a Service with these addresses and an endpoint on the node.
fn cluster(node: &str, labels: &str, addresses: &[&str]) -> String {
    let ingress: Vec<String> = addresses.iter().map(|address| format!("{{ip: '{address}'}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: '{node}', labels: {labels}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{type: LoadBalancer, clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}\n\
         status: {{loadBalancer: {{ingress: [{}]}}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\n\
         endpoints: [{{addresses: [10.244.1.2], nodeName: '{node}', conditions: {{ready: true}}}}]\n",
        ingress.join(", ")
    )
}

/// Those of the manual of Alauda Container Platform, section "External IP Address Pool", and of its section "BGP Peers".
const MANUAL: &str = "\
# ippool-with-L2advertisement.yaml
kind: IPAddressPool
apiVersion: metallb.io/v1beta1
metadata:
  name: test-ippool
  namespace: metallb-system
spec:
  addresses:
    - 13.1.1.1/24
  avoidBuggyIPs: true
---
kind: L2Advertisement
apiVersion: metallb.io/v1beta1
metadata:
  name: test-ippool
  namespace: metallb-system
spec:
  ipAddressPools:
    - test-ippool
  nodeSelectors:
    - matchLabels: {}
      matchExpressions:
        - key: kubernetes.io/hostname
          operator: In
          values:
            - 192.168.66.210
---
# ippool-with-bgpadvertisement.yaml
kind: IPAddressPool
apiVersion: metallb.io/v1beta1
metadata:
  name: test-pool-bgp
  namespace: metallb-system
spec:
  addresses:
   - 4.4.4.3/23
  avoidBuggyIPs: true
---
kind: BGPAdvertisement
apiVersion: metallb.io/v1beta1
metadata:
  name: test-pool-bgp
  namespace: metallb-system
spec:
  ipAddressPools:
    - test-pool-bgp
  nodeSelectors:
    - matchLabels:
        alertmanager: \"true\"
  peers:
    - test-bgp-example
---
# test-bgb-example.yaml
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata:
  name: example
  namespace: metallb-system
spec:
  myASN: 64512
  peerASN: 64512
  peerAddress: 172.30.0.3
  peerPort: 180
  nodeSelectors:
    - matchLabels:
        alertmanager: \"true\"
";

/// The Node that the examples of the manual choose.
const NODE: &str = "192.168.66.210";
const LABELS: &str = "{kubernetes.io/hostname: '192.168.66.210', alertmanager: 'true'}";

/// The manual calls the peer `example` in one place and `test-bgp-example` in the other.
fn with_one_name() -> String {
    MANUAL.replace("  name: example\n", "  name: test-bgp-example\n")
}

#[test]
fn examples_of_the_manual_are_taken_as_they_stand() -> Result<()> {
    let findings = |text: &str| -> Result<Vec<String>> {
        let reading = read_str("manual.yaml", text);
        ensure!(reading.findings.is_empty() && reading.unknown_kinds.is_empty(), "{:?}", reading.findings);
        let mut cluster = Cluster::default();
        for (object, _) in reading.objects {
            cluster.apply(&Change::Set(object));
        }
        Ok(judge(&cluster, "metallb-system").iter().map(ToString::to_string).collect())
    };
    let as_written = findings(MANUAL)?;
    ensure!(
        matches!(&as_written[..], [one] if one.contains("there is no BGPPeer \"test-bgp-example\"")),
        "{as_written:?}"
    );
    ensure!(findings(&with_one_name())?.is_empty(), "{:?}", findings(&with_one_name()));

    // Host bits count for nothing, and each address is announced in the way that is meant for it, from the node alone.
    let mut objects = Cluster::default();
    let text = MANUAL.to_owned() + &cluster(NODE, LABELS, &["13.1.1.7"]);
    let second = cluster("other", "{}", &["4.4.5.7"]).replace("name: web", "name: far").replace(": web", ": far");
    let reading = read_str("manual.yaml", &(text + &second));
    let keys: Vec<_> = reading.objects.iter().map(|(object, _)| object.key()).collect();
    for (object, _) in reading.objects {
        objects.apply(&Change::Set(object));
    }
    let mut announcer = Announcer::new(AnnounceOptions { node: NODE.into(), ..AnnounceOptions::default() });
    announcer.apply(&objects, &keys);
    let announcements = announcer.announcements();
    let vip = |address: &str| announcements.vips.iter().find(|vip| vip.address.to_string() == address).cloned();
    let near = vip("13.1.1.7").context("a pool has it")?;
    let candidates = near.l2.as_ref().map_err(ToString::to_string).map_err(anyhow::Error::msg)?;
    ensure!(matches!(&candidates[..], [one] if &*one.node == NODE) && near.bgp.is_empty(), "{near:?}");
    let far = vip("4.4.5.7").context("a pool has it")?;
    ensure!(far.l2.is_err() && far.bgp.len() == 1, "{far:?}");
    ensure!(announcements.bgp_of(&far, NODE).is_ok() && announcements.bgp_of(&far, "other").is_err());
    Ok(())
}

#[test]
fn the_example_of_the_manual_tells_a_router_at_its_address_and_port() -> Result<()> {
    lab::test(|lab| {
        let (node, host) = (lab.host("node")?, lab.host("router")?);
        node.wire("eth0", &host, "eth0")?;
        node.address("eth0", "172.30.0.2/24")?;
        host.address("eth0", "172.30.0.3/24")?;
        let same = Neighbour { port: 180, asn: 64512, ..Neighbour::new("172.30.0.3", "172.30.0.2") };
        let router = Router::start(Kind::Bird, &host, &[same])?;
        let text = with_one_name() + &cluster(NODE, LABELS, &["4.4.4.10"]);
        let whole = Whole::start(&node, NODE, &text)?;
        let seen = router.wait_for("4.4.4.10/32").with_context(|| format!("{:?}", whole.state()))?;
        ensure!((seen.next_hop.as_str(), seen.path.as_str()) == ("172.30.0.2", ""), "{seen:?}");
        ensure!(seen.local_pref == Some(100), "{seen:?}");
        let told =
            || whole.state().services.values().any(|peers| peers.iter().any(|peer| &**peer == "test-bgp-example"));
        wait::until(PATIENCE, told).with_context(|| format!("{:?}", whole.state()))
    })
}

/// A router behind eth0, watched by BFD.
const UNNUMBERED: &str = "\
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor, namespace: metallb-system}
spec: {myASN: 64512, dynamicASN: external, interface: eth0, connectTime: 1s, bfdProfile: fast}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: fast, namespace: metallb-system}
spec: {receiveInterval: 300, transmitInterval: 300}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: pool, namespace: metallb-system}
spec: {addresses: [198.51.100.0/24, '2001:db8:7::/64']}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: all, namespace: metallb-system}
";

#[test]
fn a_router_without_address_is_found_behind_its_interface_whenever_that_comes_and_learns_both_families() -> Result<()> {
    lab::test(|lab| {
        let (node, host) = (lab.host("node")?, lab.host("router")?);
        host.forward()?;
        node.wire("eth0", &host, "eth0")?;
        let unnumbered = Neighbour { bfd: true, ..Neighbour::new("", "eth0") };
        let router = Router::start(Kind::Frr, &host, &[unnumbered])?;
        let text = UNNUMBERED.to_owned() + &cluster("node", "{}", &["198.51.100.7", "2001:db8:7::7"]);
        let whole = Whole::start(&node, "node", &text)?;
        let link_local = |host: &Host| -> Result<String> {
            let text = host.ip("-6 -brief address show dev eth0 scope link")?;
            let address = text.split_whitespace().find_map(|word| word.strip_suffix("/64"));
            Ok(address.with_context(|| text.clone())?.to_owned())
        };
        let learnt = || -> Result<()> {
            let ours = link_local(&node)?;
            for prefix in ["198.51.100.7/32", "2001:db8:7::7/128"] {
                let seen = router.wait_for(prefix).with_context(|| format!("{:?}\n{}", whole.state(), router.log()))?;
                ensure!(seen.next_hop.split(' ').all(|hop| hop == ours), "{prefix}: {seen:?}, not {ours}");
                ensure!(seen.path == "64512", "{prefix}: {seen:?}");
            }
            let way = format!("via inet6 {ours} dev eth0");
            let in_kernel = || host.ip("route show 198.51.100.7").unwrap_or_default();
            wait::until(PATIENCE, || in_kernel().contains(&way)).with_context(|| format!("{way}: {}", in_kernel()))?;
            let up = |state: &BgpState| {
                let bfd = state.peers.get("tor").and_then(|peer| peer.bfd);
                bfd.is_some_and(|bfd| bfd.state == headwater_bfd::State::Up)
            };
            wait::until(PATIENCE, || up(&whole.state())).with_context(|| format!("{:?}", whole.state()))
        };
        learnt()?;
        ensure!(whole.state().addresses.get("tor").is_some_and(|name| name == "eth0"), "{:?}", whole.state());
        // Another cable: another number, and other addresses at both ends. Meanwhile nobody turns in circles.
        let start = Instant::now();
        node.ip("link delete eth0")?;
        let is_up = || whole.state().peers.get("tor").is_some_and(|peer| peer.session.state == State::Established);
        wait::until(PATIENCE, || !is_up())?;
        // It is noticed within 900 ms, and looked at once a second.
        ensure!(start.elapsed() < Duration::from_secs(3), "noticed after {:?}", start.elapsed());
        let (gone, busy) = (Instant::now(), node.busy()?);
        wait::until(PATIENCE, || gone.elapsed() > Duration::from_millis(1_500))?;
        let busy = node.busy()? - busy;
        ensure!(busy < Duration::from_millis(300), "{busy:?} of work without an interface");
        wait::until(PATIENCE, || router.route("198.51.100.7/32").is_none())?;
        node.wire("eth0", &host, "eth0")?;
        learnt()
    })
}

#[test]
fn a_peer_whose_number_is_left_to_it_must_be_on_the_right_side() -> Result<()> {
    for (number, is_inside, is_taken) in [
        (PeerAsn::Internal, true, true),
        (PeerAsn::External, false, true),
        (PeerAsn::Internal, false, false),
        (PeerAsn::External, true, false),
    ] {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let remote_asn = if is_inside { 64513 } else { 64512 };
            let _router = Router::start(Kind::Frr, &host, &[Neighbour { remote_asn, ..neighbour() }])?;
            let mut node = Node::start(&node, None);
            let plain = peer("10.0.0.1");
            let mut ours = if is_inside { internal(plain) } else { plain };
            ours.session.peer_asn = number;
            node.peer(PEER, ours);
            if is_taken {
                node.wait_for(PEER, State::Established)?;
                let negotiated = node.status(PEER).session.negotiated;
                ensure!(negotiated.is_some_and(|negotiated| negotiated.internal == is_inside), "{number:?}");
                return Ok(());
            }
            let why = || node.status(PEER).session.last_down;
            wait::until(PATIENCE, || why().as_deref() == Some("told the peer: bad peer AS (2/2)"))
                .with_context(|| format!("{number:?}: {:?}", why()))
        })?;
    }
    Ok(())
}
