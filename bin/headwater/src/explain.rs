//! `headwater explain`: what every hop of a request sees of its client.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::ValueEnum;
use headwater_explain::{Options, Question, Source, Target, World};
use headwater_kube_io::{ApiServerSource, Reader, Reading, Selection, read_dir, read_str};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::finding::{Finding, Severity};
use headwater_model::origin::{Kind, NamespacedName};

use headwater_translate::{Options as TranslateOptions, Translator};

use crate::check::print;
use crate::cluster::{ClusterArgs, namespaced_name};
use crate::node::ServiceArgs;

/// For the API server to list everything.
const PATIENCE: Duration = Duration::from_secs(30);
/// For single Secrets and ConfigMaps that follow from that.
const PATIENCE_FOR_NAMED: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is asked for: an URL, or `tcp://ADDRESS:PORT`, `udp://`, `sctp://`
    target: Target,
    /// Who asks: an IP address (of a client, a pod or a node), or `node/NAME`
    #[arg(long, value_name = "CLIENT")]
    from: Source,
    /// Directory or file of manifests, or `-` for standard input, in place of an API server
    #[arg(short, long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    filename: Option<PathBuf>,
    /// The node that receives the packet [default: the one that has the client or the address, else each in turn]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The address of the target's name, where objects do not say
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// A load balancer ends the client's connection, and connects from this address
    #[arg(long, value_name = "IP")]
    sender: Option<IpAddr>,
    /// The connection begins with a PROXY header that names this client
    #[arg(long, value_name = "CLIENT")]
    proxy_protocol: Option<IpAddr>,
    /// Header of the request, as `NAME: VALUE`; may be given several times
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header)]
    header: Vec<(String, String)>,
    /// Method of the request
    #[arg(short = 'X', long, default_value = "GET", value_name = "METHOD")]
    request: String,
    /// Service whose endpoints are Headwater gateways, as namespace/name, besides those of the chart; may be given several times
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    gateway: Vec<NamespacedName>,
    /// Form of the answer
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Output::Text)]
    output: Output,
    #[command(flatten, next_help_heading = "As the nodes run")]
    services: ServiceArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| "it takes the form NAME: VALUE".to_owned())?;
    let name = name.trim();
    if name.is_empty() {
        return Err("a header has a name".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

impl Args {
    fn question(&self) -> Question {
        Question {
            node: self.node.as_deref().map(Into::into),
            address: self.address,
            sender: self.sender,
            proxy_protocol: self.proxy_protocol,
            method: self.request.clone(),
            headers: self.header.clone(),
            ..Question::new(self.from.clone(), self.target.clone())
        }
    }

    fn options(&self, translate: TranslateOptions) -> Options {
        Options {
            services: headwater_service_nat::Options {
                node_port_addresses: self.services.node_port_addresses.clone(),
                cluster_cidrs: self.services.cluster_cidr.clone(),
                service_cidrs: self.services.service_cidr.clone(),
                masquerade_all: self.services.masquerade_all,
                keep: self.services.source_ip.into(),
                ..headwater_service_nat::Options::default()
            },
            translate,
            gateways: self.gateway.iter().cloned().collect(),
            now: now(),
            ..Options::default()
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Succeeds whatever the verdict is: it was told.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let world = match &args.filename {
        Some(path) => manifests(&args, path)?,
        None => api_server(&args).await?,
    };
    let explanation = headwater_explain::explain(&world, &args.question());
    match args.output {
        Output::Text => print(&headwater_explain::render(&explanation)),
        Output::Json => print(&(serde_json::to_string_pretty(&explanation)? + "\n")),
    }
    Ok(ExitCode::SUCCESS)
}

fn manifests(args: &Args, path: &Path) -> anyhow::Result<World> {
    let Reading { objects, findings, .. } = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        read_str("stdin", &text)
    } else {
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
        read_dir(path)
    };
    warn(&findings);
    let mut cluster = Cluster::default();
    for (object, _) in objects {
        cluster.apply(&Change::Set(object));
    }
    // Without nodes it is what `headwater up` serves.
    let gateway_here = cluster.nodes.is_empty();
    Ok(World::new(cluster, Options { gateway_here, ..args.options(args.cluster.labels.embedded()) }))
}

async fn api_server(args: &Args) -> anyhow::Result<World> {
    let server = args.cluster.connect().await?;
    let own = args.cluster.namespace(&server);
    let selected = args.cluster.selection(&own, false);
    let kinds = selected.kinds.iter().copied().chain([Kind::Node]).collect();
    let selection = Selection { kinds, reader: Reader::Everything, ..selected };
    let mut source = ApiServerSource::start(&server, selection);
    let mut cluster = Cluster::default();
    let batch = tokio::time::timeout(PATIENCE, source.next()).await;
    let batch = batch.with_context(|| format!("API server: not everything was listed within {PATIENCE:?}"))?;
    let mut findings = batch.findings;
    for change in &batch.changes {
        cluster.apply(change);
    }
    let translate = args.cluster.options();
    let wanted = Translator::new(translate.clone()).apply(&cluster, &[], now()).wanted;
    source.want(&wanted);
    let end = tokio::time::Instant::now() + PATIENCE_FOR_NAMED;
    while source.pending() > 0 {
        let Ok(batch) = tokio::time::timeout_at(end, source.next()).await else { break };
        for change in &batch.changes {
            cluster.apply(change);
        }
        findings = batch.findings;
    }
    warn(&findings);
    Ok(World::new(cluster, args.options(translate)))
}

/// What could not be read may change the answer.
pub(crate) fn warn(findings: &[Finding]) {
    let told: BTreeSet<String> =
        findings.iter().filter(|finding| finding.severity == Severity::Error).map(ToString::to_string).collect();
    for finding in told {
        eprintln!("headwater: not read: {finding}");
    }
}
