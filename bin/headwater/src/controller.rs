//! `headwater controller`: writes status, and judges objects before they are stored.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use headwater_addresses::{AddressMetrics, Addresses, Class, Settings};
use headwater_admission::{
    AdmissionConfig, AdmissionMetrics, AdmissionServer, Candidate, Certificate, Judge, Lives, Managed,
};
use headwater_control::status::{StatusWriter, clear_all, parse_address};
use headwater_control::{Controller, Oracle, Publish, RuleWriter};
use headwater_kube_io::{ApiServer, Leadership, LeaseName, Reader, Timing, unique_identity};
use headwater_model::alb::Domain;
use headwater_model::cluster::Change;
use headwater_model::finding::Finding;
use headwater_model::metallb::WRITTEN_KINDS;
use headwater_model::observed::PublishedAddress;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_operator::{Installation, Operator};
use headwater_process::admin::{self, Admin};
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use headwater_translate::{AlbScope, Options};
use serde_json::json;
use tokio::sync::watch;

use crate::cluster::{ClusterArgs, GATEWAY_LABEL, namespaced_name, pod_name};
use crate::running::stop_signal;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Service that clients reach the gateways by, as namespace/name; its addresses become those of Ingresses
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name, conflicts_with = "publish_address")]
    publish_service: Option<NamespacedName>,
    /// Address or host name that clients reach the gateways by; may be given several times
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address, value_delimiter = ',')]
    publish_address: Vec<PublishedAddress>,
    /// Also tell, by Events, of Services that want an address or a NodePort that another one has: where nodes run
    /// `headwater node`
    #[arg(long)]
    services: bool,
    /// Name of the Lease that replicas elect their leader by
    #[arg(long, default_value = "headwater-controller", value_name = "NAME")]
    lease_name: String,
    /// Address of the admin port: metrics, health, status
    #[arg(long, default_value_t = admin::DEFAULT_ADDRESS, value_name = "ADDRESS")]
    admin: SocketAddr,
    #[command(flatten)]
    webhook: WebhookArgs,
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(flatten)]
    addresses: AddressArgs,
    /// Give up every status that Headwater wrote, and exit: the last step before it is uninstalled
    #[arg(long)]
    clear_status: bool,
}

#[derive(clap::Args)]
struct WebhookArgs {
    /// Address of the admission webhook [default: none is served]
    #[arg(long, value_name = "ADDRESS")]
    webhook: Option<SocketAddr>,
    /// Directory with its certificate: tls.crt and tls.key
    #[arg(long, value_name = "DIRECTORY", requires = "webhook")]
    webhook_tls_dir: Option<PathBuf>,
    /// Secret in which a certificate of its own is kept, in the namespace of the Leases
    #[arg(long, value_name = "NAME", requires = "webhook", default_value = "headwater-webhook")]
    webhook_secret: String,
    /// Service by which the API server calls it, in the namespace of the Leases
    #[arg(long, value_name = "NAME", requires = "webhook", default_value = "headwater-webhook")]
    webhook_service: String,
    /// ValidatingWebhookConfiguration that is told whom to believe
    #[arg(long, value_name = "NAME", requires = "webhook", default_value = "headwater")]
    webhook_configuration: String,
    /// File with the authorities of those who may call it [default: everybody may]
    #[arg(long, value_name = "FILE", requires = "webhook")]
    webhook_client_ca: Option<PathBuf>,
}

#[derive(clap::Args)]
struct OperatorArgs {
    /// Make gateways of ALB2 objects, from this image [default: ALB2s are left to others]
    #[arg(long, value_name = "IMAGE")]
    alb_image: Option<String>,
    /// When the image of gateways of ALB2s is fetched
    #[arg(long, value_name = "POLICY", requires = "alb_image", default_value = "IfNotPresent")]
    alb_image_pull_policy: String,
    /// Secret to fetch that image with, in the namespace of each ALB2; may be given several times
    #[arg(long, value_name = "NAME", requires = "alb_image")]
    alb_pull_secret: Vec<String>,
    /// Whether the paths of Ingresses that ALB2s serve are also written as Rule objects, for `kubectl get rule`
    #[arg(long, value_name = "HOW", value_enum, default_value_t = IngressRules::Virtual)]
    ingress_rules: IngressRules,
    /// ClusterRole that gateways of ALB2s are bound to
    #[arg(long, value_name = "NAME", requires = "alb_image", default_value = "headwater-alb")]
    alb_cluster_role: String,
    /// Role that gateways of ALB2s are bound to in its namespace, as namespace/name; may be given several times
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "alb_image", value_parser = namespaced_name)]
    alb_role: Vec<NamespacedName>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IngressRules {
    /// No: they are served, and nothing is written
    Virtual,
    /// Yes: the leader keeps a Rule for each, which shows it and is not served by itself
    Objects,
}

#[derive(clap::Args)]
struct AddressArgs {
    /// Give Services of type LoadBalancer addresses of IPAddressPools (metallb.io), in place of MetalLB's controller
    #[arg(long)]
    addresses: bool,
    /// Give them to Services of this loadBalancerClass [default: to those without a class]
    #[arg(long, value_name = "CLASS", requires = "addresses")]
    lb_class: Option<String>,
    /// Namespace of the resources of metallb.io
    #[arg(long, value_name = "NAMESPACE", requires = "addresses", default_value = "metallb-system")]
    metallb_namespace: String,
}

impl OperatorArgs {
    fn installation(&self, lease_namespace: &str, domain: Domain) -> Option<Installation> {
        Some(Installation {
            image: self.alb_image.clone()?,
            image_pull_policy: self.alb_image_pull_policy.clone(),
            pull_secrets: self.alb_pull_secret.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_role: self.alb_cluster_role.clone(),
            roles: self.alb_role.clone(),
            lease_namespace: lease_namespace.to_owned(),
            domain,
        })
    }
}

pub(crate) async fn run(args: Args, level: LogLevel) -> anyhow::Result<ExitCode> {
    let server = args.cluster.connect().await?;
    let namespace = args.cluster.namespace(&server);
    if args.clear_status {
        let cleared = clear_all(&server, &args.cluster.namespaces(&namespace)).await.context("status")?;
        tracing::info!(cleared, "every status that Headwater wrote is given up");
        return Ok(ExitCode::SUCCESS);
    }
    let registry = Registry::new();
    let name = pod_name();
    let lease = LeaseName { namespace: namespace.clone(), name: args.lease_name.clone() };
    let leadership = Leadership::start(&server, lease, unique_identity(&name), Timing::default());
    let leading = leadership.leading();
    {
        let leading = leading.clone();
        registry.gauge_fn("leader", "1 while this process writes status", move || i64::from(*leading.borrow()));
    }
    let (label, value) = GATEWAY_LABEL;
    let fleet = server.watch_gateways(&namespace, &format!("{label}={value}"));
    let writer = StatusWriter::start(server.clone(), &leadership, &name, Some(fleet));
    let publish = match &args.publish_service {
        Some(service) => Publish::Service(service.clone()),
        None => Publish::Addresses(args.publish_address.clone()),
    };
    // Secrets are none of its business.
    let shows_ingress_rules = args.operator.ingress_rules == IngressRules::Objects;
    let mut options = Options { reads_secrets: false, shows_ingress_rules, ..args.cluster.options() };
    let mut selection = args.cluster.selection(&namespace, true);
    if args.operator.alb_image.is_some() {
        // Gateways are made for all of them.
        options.albs = AlbScope::All;
        selection.within.clear();
        selection.kinds.retain(|kind| *kind != Kind::Namespace);
        selection.kinds.extend([Kind::Namespace, Kind::Alb2, Kind::Frontend, Kind::Rule]);
    }
    if args.services {
        selection.reader = Reader::Controller;
    }
    if args.addresses.addresses {
        // For the webhook and the findings; addresses are given by what reads for itself.
        let namespace = &args.addresses.metallb_namespace;
        selection.always.push(namespace.clone());
        selection.within.extend(WRITTEN_KINDS.map(|kind| (kind, namespace.clone())));
        options.metallb_namespace.clone_from(namespace);
    }
    let addresses = args.addresses.addresses.then(|| {
        let settings = Settings {
            class: Class(args.addresses.lb_class.clone()),
            namespace: args.addresses.metallb_namespace.clone(),
            instance: name.clone(),
        };
        Addresses::start(&server, &leadership, settings, AddressMetrics::register(&registry))
    });
    let controller = Controller::follow(&server, selection, options, publish, args.services, writer, &registry);
    let rules = shows_ingress_rules.then(|| RuleWriter::start(&server, &leadership, controller.shown()));
    let operator = args.operator.installation(&namespace, args.cluster.labels.domain()).map(|installation| {
        let fleet = server.watch_gateways(&namespace, &format!("{label}={value}"));
        Operator::start(&server, args.cluster.namespaces(&namespace), &leadership, fleet, &name, installation)
    });
    let webhook = webhook(&args.webhook, &server, &namespace, leading.clone(), controller.oracle(), &registry)?;
    let webhook_address = webhook.as_ref().map(AdmissionServer::local_address);
    let webhook_ready = webhook.as_ref().map(AdmissionServer::ready);
    let stopping = Arc::new(AtomicBool::new(false));
    let ready = {
        let (started, stopping) = (controller.started(), stopping.clone());
        move || {
            if stopping.load(Ordering::Relaxed) {
                return Err("stopping".to_owned());
            }
            if !*started.borrow() {
                return Err("the API server was not read yet".to_owned());
            }
            webhook_ready.as_ref().map_or(Ok(()), |ready| ready())
        }
    };
    let status = {
        let (findings, leading) = (controller.findings(), leading);
        move || json!({ "version": env!("CARGO_PKG_VERSION"), "leading": *leading.borrow(), "findings": **findings.borrow() })
    };
    let admin = Admin::new(registry).log_level(level).ready(ready).status(status).bind(args.admin).await?;
    tracing::info!(
        admin = %admin.local_address(),
        webhook = webhook_address.map(tracing::field::display),
        namespace,
        identity = name,
        "controller is up"
    );
    let admin = tokio::spawn(admin.serve());
    let (shut, shutdown) = tokio::sync::oneshot::channel::<()>();
    let webhook = webhook.map(|webhook| {
        tokio::spawn(webhook.serve(async {
            // Either way it is time.
            let _ = shutdown.await;
        }))
    });
    stop_signal().await?;
    stopping.store(true, Ordering::Relaxed);
    tracing::info!("stopping");
    drop(shut);
    // Reviews under way are answered, and still need the controller.
    if let Some(webhook) = webhook {
        webhook.await.context("webhook")?;
    }
    drop(rules);
    if let Some(operator) = operator {
        operator.stop().await;
    }
    if let Some(addresses) = addresses {
        addresses.stop().await;
    }
    controller.stop().await;
    leadership.release().await;
    admin.abort();
    Ok(ExitCode::SUCCESS)
}

fn webhook(
    args: &WebhookArgs,
    server: &ApiServer,
    namespace: &str,
    leading: watch::Receiver<bool>,
    oracle: Oracle,
    registry: &Registry,
) -> anyhow::Result<Option<AdmissionServer<Foresight>>> {
    let Some(address) = args.webhook else { return Ok(None) };
    ensure!(address.port() != 0 || args.webhook_tls_dir.is_some(), "--webhook needs a port that its Service knows");
    let certificate = match &args.webhook_tls_dir {
        Some(directory) => Certificate::Given(directory.clone()),
        None => Certificate::Managed(Managed {
            server: server.clone(),
            secret: NamespacedName::new(namespace, args.webhook_secret.as_str()),
            configuration: args.webhook_configuration.clone(),
            names: vec![format!("{}.{namespace}.svc", args.webhook_service)],
            lives: Lives::default(),
            leading,
        }),
    };
    let config =
        AdmissionConfig { address, client_authorities: args.webhook_client_ca.clone(), ..AdmissionConfig::default() };
    Ok(Some(AdmissionServer::bind(&config, certificate, Foresight(oracle), AdmissionMetrics::register(registry))?))
}

/// Judges objects by what they would become.
struct Foresight(Oracle);

impl Judge for Foresight {
    async fn judge(&self, candidate: Candidate) -> Vec<Finding> {
        let consequences = self.0.ask(Change::Set(candidate.object)).await.unwrap_or_default();
        consequences.own.into_iter().chain(consequences.others).collect()
    }

    async fn removal(&self, key: ObjectKey) -> Vec<Finding> {
        self.0.ask(Change::Removed(key)).await.unwrap_or_default().own
    }
}
