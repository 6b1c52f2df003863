//! Resources of MetalLB that a real API server asks the webhook of `headwater controller` about, by the chart's rules.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use headwater_testkit::certs::Authority;
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait;
use serde_json::{Value, json};

use crate::addresses::install;
use crate::support::{PATIENCE, Role, credentials, start};

/// Not MetalLB's, so that the chart has to name it where it counts.
const NAMESPACE: &str = "balancers";

/// What the chart installs for these resources, which asks at this address.
async fn configuration(cluster: &Cluster, url: &str, authority: &Authority) -> Result<Value> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/headwater");
    let values = format!("webhook.enabled=true,addresses.enabled=true,addresses.namespace={NAMESPACE}");
    let rendered = Command::new(cluster.program("helm")?)
        .args(["template", "headwater", "--kube-version", "1.36.0"])
        .arg(chart)
        .args(["--show-only", "templates/webhook.yaml", "--set", &values])
        .output()?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let text = String::from_utf8(rendered.stdout)?;
    let of_kind = |text: &&str| text.lines().any(|line| line == "kind: ValidatingWebhookConfiguration");
    let document = text.split("\n---\n").find(of_kind).context("no configuration in the chart")?;
    let mut object = cluster.try_apply(document, &["--dry-run=server", "-o", "json"]).await?.json()?;
    let mut webhooks = object["webhooks"].take();
    let found = webhooks.as_array_mut().context("webhooks")?.iter_mut();
    let webhook = found.into_iter().find(|webhook| webhook["name"] == "balancers.headwater.dev").context("webhook")?;
    webhook["clientConfig"] = json!({"url": url, "caBundle": authority.ca_bundle()});
    webhook["failurePolicy"] = "Fail".into();
    Ok(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "headwater-balancers"}, "webhooks": [webhook],
    }))
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
    json!({"apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

fn pool(name: &str, addresses: &[&str]) -> Value {
    object("IPAddressPool", name, json!({"addresses": addresses}))
}

fn peer(name: &str, address: &str, more: Value) -> Value {
    let mut spec = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": address});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object("BGPPeer", name, spec)
}

fn community(name: &str) -> Value {
    object("Community", name, json!({"communities": [{"name": "vpn", "value": "1:2"}]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_together_is_refused_when_it_comes_changes_or_goes() -> Result<()> {
    let cluster = &start().await?;
    install(cluster).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.create("/api/v1/namespaces", &namespace).await?;
    let authority = Authority::new("webhook")?;
    let leaf = authority.leaf(&["127.0.0.1"])?;
    let certificate = tempfile::tempdir()?;
    std::fs::write(certificate.path().join("tls.crt"), &leaf.cert_pem)?;
    std::fs::write(certificate.path().join("tls.key"), &leaf.key_pem)?;
    let directory = certificate.path().to_str().context("path")?;
    let arguments =
        ["--addresses", "--metallb-namespace", NAMESPACE, "--webhook", "127.0.0.1:0", "--webhook-tls-dir", directory];
    let role = Role::start(&credentials(cluster, "controller").await?, "controller", "judge", &arguments)?;
    role.ready()?;
    let address = role.log().iter().find_map(|line| line["webhook"].as_str().map(str::to_owned)).context("webhook")?;
    let url = format!("https://{address}/validate");
    let asked = configuration(cluster, &url, &authority).await?;
    cluster.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &asked).await?;

    // All of it makes sense, in this order and any other: what is only named may come later.
    let objects = [
        object(
            "BGPAdvertisement",
            "ad",
            json!({"aggregationLength": 24, "communities": ["vpn"], "ipAddressPools": ["first"]}),
        ),
        peer("router", "192.0.2.1", json!({"bfdProfile": "fast"})),
        object("BFDProfile", "fast", json!({"receiveInterval": 100})),
        pool("first", &["10.0.0.0/24"]),
        pool("second", &["10.0.1.0/24"]),
        community("names"),
    ];
    for object in &objects {
        let output = cluster.try_apply(&object.to_string(), &[]).await?;
        ensure!(output.success, "{object}: {}", output.stderr);
    }
    let mut elsewhere = pool("elsewhere", &["10.9.0.0/24"]);
    elsewhere["metadata"]["namespace"] = "default".into();
    for (refused, words) in [
        // New ones.
        (elsewhere, "resource must be created in balancers namespace"),
        (pool("third", &["10.0.0.7/32"]), "overlaps with already defined CIDR"),
        (pool("third", &["10.0.3.9-10.0.3.1"]), "is after the end IP"),
        (object("BGPAdvertisement", "wide", json!({"aggregationLength": 20})), "invalid aggregation length 20"),
        (community("more"), "duplicate definition of community"),
        (peer("other", "192.0.2.2", json!({"routerID": "192.0.2.9"})), "all of a node must be equal"),
        (peer("again", "192.0.2.1", json!({})), "peer 192.0.2.1 already exists"),
        // Changes; also of the one that was there first.
        (pool("second", &["10.0.0.128-10.0.1.9"]), "overlaps with already defined CIDR"),
        (pool("first", &["10.0.0.0/23"]), "overlaps with already defined CIDR"),
        (pool("first", &["10.0.0.0/25"]), "BGPAdvertisement balancers/ad: invalid aggregation length 24"),
        (peer("router", "192.0.2.1", json!({"ebgpMultiHop": true, "peerASN": 64512})), "invalid ebgp-multihop"),
    ] {
        // The controller may not have heard of everything yet.
        let last = std::cell::RefCell::new(String::new());
        let said = wait::eventually(PATIENCE, || async {
            let output = cluster.try_apply(&refused.to_string(), &["--dry-run=server"]).await?;
            let is_so = !output.success && output.stderr.contains(words);
            last.replace(output.stdout + &output.stderr);
            Ok(is_so.then_some(()))
        });
        said.await.with_context(|| format!("{words}: {refused} {}", last.take()))?;
    }
    // What somebody needs does not go.
    let delete = async |kind: &str, name: &str| {
        cluster.run("kubectl", cluster.kubeconfig(), &["-n", NAMESPACE, "delete", kind, name]).await
    };
    let kept = delete("bfdprofile", "fast").await?;
    ensure!(kept.stderr.contains("failed to delete BFDProfile fast, used by BGPPeer router"), "{}", kept.stderr);
    ensure!(!kept.success);
    for (kind, name) in [("ipaddresspool", "second"), ("bgppeer", "router")] {
        let gone = delete(kind, name).await?;
        ensure!(gone.success, "{}", gone.stderr);
    }
    let free = || async { Ok(delete("bfdprofile", "fast").await?.success.then_some(())) };
    wait::eventually(PATIENCE, free).await.context("a BFDProfile that nobody names stays")?;
    Ok(())
}
