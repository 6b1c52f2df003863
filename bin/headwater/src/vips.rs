//! `headwater status vips`: who has which address of a load balancer, and who announces it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use headwater_addresses::{Class, Desk};
use headwater_kube_io::{Access, ApiServer, ApiServerSource, Batch, Reader, Selection};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::metallb::WRITTEN_KINDS;
use headwater_model::origin::{Kind, NamespacedName};
use headwater_translate::announce::{AnnouncedBy, VipOverview, overview};
use serde_json::Value;

use crate::check::print;
use crate::cluster::MetallbArgs;

/// For the first list of everything.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Admin port of one `headwater node` or `headwater up` to ask, in place of an API server
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["kubeconfig", "context", "lb_class", "metallb_namespace"])]
    admin: Option<SocketAddr>,
    /// File with the credentials [default: the pod's service account, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Services of this loadBalancerClass [default: those without a class]
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    #[command(flatten)]
    metallb: MetallbArgs,
    /// Form of the answer
    #[arg(short, long, default_value = "text", value_name = "FORM", value_parser = ["text", "json"])]
    output: String,
}

/// Exits with 1 when a Service has no address, or nobody announces one.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (rows, problem) = match args.admin {
        Some(address) => of_process(address)?,
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            (runtime.block_on(of_cluster(args))?, None)
        }
    };
    match &*args.output {
        "json" => print(&(serde_json::to_string_pretty(&rows)? + "\n")),
        _ => print(&table(&rows)),
    }
    if let Some(problem) = &problem {
        eprintln!("headwater: {problem}");
    }
    let is_well = problem.is_none() && rows.iter().all(|row| row.why.is_empty());
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn of_cluster(args: &Args) -> anyhow::Result<Vec<VipOverview>> {
    let access = Access { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
    let server = ApiServer::connect(&access).await.context("API server")?;
    let namespace = &args.metallb.metallb_namespace;
    let within = WRITTEN_KINDS.into_iter().chain([Kind::ServiceL2Status, Kind::ServiceBgpStatus]);
    let selection = Selection {
        kinds: vec![Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::Namespace],
        within: within.map(|kind| (kind, namespace.clone())).collect(),
        reader: Reader::Everything,
        ..Selection::default()
    };
    let mut source = ApiServerSource::start(&server, selection);
    let batch = tokio::time::timeout(PATIENCE, source.next()).await;
    let batch = batch.with_context(|| format!("API server: not everything was listed within {PATIENCE:?}"))?;
    crate::explain::warn(&batch.findings);
    let mut cluster = Cluster::default();
    for change in &batch.changes {
        cluster.apply(change);
    }
    let unallocated = unallocated(args.lb_class.clone(), namespace, batch.changes);
    Ok(overview(&cluster, args.lb_class.as_deref(), &unallocated))
}

/// Why Services have no address, as whoever gives them would say now.
fn unallocated(class: Option<String>, namespace: &str, changes: Vec<Change>) -> BTreeMap<NamespacedName, Vec<String>> {
    let mut desk = Desk::new(Class(class), namespace);
    desk.take(Batch { changes, ..Batch::default() });
    let told = desk.services().filter(|service| !service.why.is_empty());
    told.filter_map(|service| Some((NamespacedName::parse(&service.service)?, service.why))).collect()
}

/// What one process says of itself: `headwater up` gives addresses, and nodes announce them.
fn of_process(address: SocketAddr) -> anyhow::Result<(Vec<VipOverview>, Option<String>)> {
    let answer = headwater_process::admin::fetch(address, "/status")
        .with_context(|| format!("nothing of headwater answers at {address}"))?;
    let status: Value = serde_json::from_str(&answer).context("answer of the admin port")?;
    if status["addresses"].is_object() {
        let problem = status["addresses"]["problem"].as_str().map(str::to_owned);
        return Ok((given(&status["addresses"]["services"]), problem));
    }
    anyhow::ensure!(
        status["layer2"].is_object() || status["bgp"].is_object(),
        "the process at {address} neither gives nor announces addresses (headwater node --announce=l2,bgp does, and headwater up)"
    );
    Ok((announced(&status), None))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// By `headwater up`.
fn given(services: &Value) -> Vec<VipOverview> {
    let mut rows = Vec::new();
    for service in list(services) {
        let row = VipOverview {
            service: text(&service["service"]).unwrap_or_default(),
            pool: text(&service["pool"]),
            why: list(&service["why"]).filter_map(text).collect(),
            ..VipOverview::default()
        };
        let addresses: Vec<_> =
            list(&service["addresses"]).filter_map(|address| address.as_str()?.parse().ok()).collect();
        if addresses.is_empty() {
            rows.push(row.clone());
        }
        rows.extend(addresses.into_iter().map(|address| VipOverview { address: Some(address), ..row.clone() }));
    }
    rows
}

/// By a node: what it announces itself, and why not what it does not.
fn announced(status: &Value) -> Vec<VipOverview> {
    let peers_of =
        |service: &str| -> Vec<String> { list(&status["bgp"]["services"][service]).filter_map(text).collect() };
    let mut rows: Vec<VipOverview> = Vec::new();
    for vip in list(&status["layer2"]["vips"]) {
        let service = match (vip["service"]["namespace"].as_str(), vip["service"]["name"].as_str()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => text(&vip["service"]).unwrap_or_default(),
        };
        let by = text(&vip["announcer"]).map(|node| AnnouncedBy {
            node,
            protocol: "layer2".to_owned(),
            ..AnnouncedBy::default()
        });
        let why = [text(&vip["silence"]), text(&vip["problem"])];
        rows.push(VipOverview {
            address: vip["address"].as_str().and_then(|address| address.parse().ok()),
            pool: text(&vip["pool"]),
            announcers: by.into_iter().collect(),
            why: why.into_iter().flatten().map(|why| format!("layer2: {why}")).collect(),
            service,
        });
    }
    let services = status["bgp"]["services"].as_object();
    for service in services.into_iter().flat_map(|services| services.keys()) {
        let by = AnnouncedBy {
            node: "this node".to_owned(),
            protocol: "bgp".to_owned(),
            peers: peers_of(service),
            ..AnnouncedBy::default()
        };
        match rows.iter_mut().filter(|row| row.service == *service).collect::<Vec<_>>() {
            known if known.is_empty() => {
                rows.push(VipOverview { service: service.clone(), announcers: vec![by], ..VipOverview::default() });
            }
            known => known.into_iter().for_each(|row| row.announcers.push(by.clone())),
        }
    }
    rows
}

fn table(rows: &[VipOverview]) -> String {
    let mut cells = vec![["ADDRESS", "SERVICE", "POOL", "ANNOUNCED BY", "SINCE"].map(str::to_owned)];
    for row in rows {
        let address = row.address.map_or("-".to_owned(), |address| address.to_string());
        let pool = row.pool.clone().unwrap_or("-".to_owned());
        let mut by = row.announcers.iter().map(announcer);
        let (first, since) = by.next().unwrap_or(("-".to_owned(), String::new()));
        cells.push([address, row.service.clone(), pool, first, since]);
        cells.extend(by.map(|(by, since)| [String::new(), String::new(), String::new(), by, since]));
        cells.extend(
            row.why
                .iter()
                .map(|why| [format!("  why not: {why}"), String::new(), String::new(), String::new(), String::new()]),
        );
    }
    let width = |column: usize| {
        let of = cells.iter().filter(|row| !row[0].starts_with("  "));
        of.map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2), width(3)];
    let line = |row: &[String; 5]| {
        let [address, service, pool, by, since] = row;
        let [a, s, p, b] = widths;
        format!("{address:<a$}  {service:<s$}  {pool:<p$}  {by:<b$}  {since}").trim_end().to_owned() + "\n"
    };
    cells.iter().map(line).collect()
}

/// `node-1 layer2 (eth0)`, `node-2 bgp to left, right`, and since when.
fn announcer(by: &AnnouncedBy) -> (String, String) {
    let more = match (&by.interfaces[..], &by.peers[..]) {
        ([], []) => String::new(),
        ([], peers) => format!(" to {}", peers.join(", ")),
        (interfaces, _) => format!(" ({})", interfaces.join(", ")),
    };
    (format!("{} {}{more}", by.node, by.protocol), by.since.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_tells_of_itself_by_both_protocols() {
        let status = json!({
            "layer2": {"vips": [
                {"address": "192.0.2.1", "service": {"namespace": "shop", "name": "web"}, "pool": "first", "announcer": "b",
                 "silence": "notOwner", "isAnnounced": false},
                {"address": "192.0.2.2", "service": {"namespace": "shop", "name": "api"}, "pool": "first", "announcer": "a",
                 "isAnnounced": false, "problem": "00:00:5e:00:53:01 has it"},
            ]},
            "bgp": {"services": {"shop/web": ["left", "right"], "shop/far": ["left"]}},
        });
        assert_eq!(
            table(&announced(&status)),
            "ADDRESS    SERVICE   POOL   ANNOUNCED BY                  SINCE\n\
             192.0.2.1  shop/web  first  b layer2\n\
             \x20                           this node bgp to left, right\n\
             \x20 why not: layer2: notOwner\n\
             192.0.2.2  shop/api  first  a layer2\n\
             \x20 why not: layer2: 00:00:5e:00:53:01 has it\n\
             -          shop/far  -      this node bgp to left\n"
        );
    }
}
