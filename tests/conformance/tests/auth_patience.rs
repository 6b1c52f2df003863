//! Auth that takes its time, or too many passwords at once; and an auth server whose certificate is believed.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::certs::Authority;
use headwater_testkit::client::RawClient;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::Response;
use headwater_testkit::wait;

/// An Ingress for `app.test` with annotations, its Service, and more manifests.
fn stand(app: SocketAddr, annotations: &[(&str, &str)], more: &str) -> Result<Stand> {
    let annotations: String = annotations
        .iter()
        .map(|(name, value)| format!("    nginx.ingress.kubernetes.io/{name}: {value:?}\n"))
        .collect();
    let annotated = Stand::app("app", "app.test", &[app]).replacen(
        "metadata:\n  name: app\n  namespace: test\n",
        &format!("metadata:\n  name: app\n  namespace: test\n  annotations:\n{annotations}"),
        1,
    );
    Stand::start(&[("gateway.yaml", Stand::gateway("")), ("app.yaml", format!("{annotated}{more}"))])
}

fn get(address: SocketAddr, lines: &str) -> Result<Response> {
    RawClient::connect(address)?.request(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n"))
}

fn fault(response: &Response) -> (u16, String) {
    (response.status, response.header("x-headwater-fault").unwrap_or_default())
}

#[test]
fn a_server_that_stays_silent_lets_nobody_in_after_five_seconds() -> Result<()> {
    let app = Origin::http("app")?;
    let silent = RawOrigin::start(|conn| {
        conn.read_request()?;
        conn.read_to_end().map(drop)
    })?;
    let url = format!("http://{}/check", silent.address());
    let stand = stand(app.address(), &[("auth-url", &url)], "")?;
    let began = Instant::now();
    let response = get(stand.address("http"), "")?;
    assert_eq!(fault(&response), (500, "auth_unreachable".to_owned()));
    let took = began.elapsed();
    assert!((Duration::from_millis(4900)..Duration::from_secs(15)).contains(&took), "{took:?}");
    let line = stand.log_line(|line| line["fault"] == "auth_unreachable")?;
    assert!(line["fault_detail"].as_str().is_some_and(|detail| detail.contains("5s")), "{line}");
    Ok(())
}

#[test]
fn passwords_that_cannot_have_their_turn_are_refused() -> Result<()> {
    // Places for those that wait, and some more.
    const CLIENTS: usize = 64 + 8;
    let app = Origin::http("app")?;
    let users = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: users, namespace: test}\nstringData:\n  \
                 auth: 'foo:$2y$13$abcdefghijklmnopqrstuuUq7qXkDOZJ5Q8HA9wCOH0FErWp6q0b6'\n";
    let annotations = [("auth-type", "basic"), ("auth-secret", "users")];
    let stand = stand(app.address(), &annotations, users)?;
    let address = stand.address("http");
    // `foo:a`; what was wrong once is not remembered.
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let ask =
            || scope.spawn(move || get(address, "Authorization: Basic Zm9vOmE=\r\n").map(|answer| fault(&answer)));
        let asked: Vec<_> = (0..CLIENTS).map(|_| ask()).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
            .collect::<Result<_>>()
    })?;
    let count = |word: &str| answers.iter().filter(|(_, known)| known == word).count();
    let (refused, denied) = (count("auth_overload"), count("auth_required"));
    assert_eq!(refused + denied, CLIENTS, "{answers:?}");
    assert!(refused > 0 && denied > 0, "{refused} refused, {denied} denied");
    assert!(answers.iter().all(|(status, word)| *status == if word == "auth_overload" { 503 } else { 401 }));
    let series = "headwater_gateway_faults_total{reason=\"auth_overload\",by=\"local\"}";
    wait::until(wait::DEADLINE, || stand.metric(series) >= refused as f64)?;
    Ok(())
}

/// Where certificate authorities are read from; the test runs in a process of its own, whose environment it is.
const ROOTS: &str = "SSL_CERT_FILE";
const INSIDE: &str = "HEADWATER_TEST_AUTH_INSIDE";

#[test]
fn a_server_whose_certificate_is_believed_may_let_in() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return believed(std::path::Path::new(&std::env::var_os(ROOTS).context("the parent names a file")?));
    }
    let dir = headwater_testkit::dir::ManifestDir::new()?;
    let run = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_server_whose_certificate_is_believed_may_let_in"])
        .env(ROOTS, dir.path().join("roots.pem"))
        .env_remove("SSL_CERT_DIR")
        .env(INSIDE, "1")
        .output()
        .context("the test as a process of its own")?;
    let output = String::from_utf8_lossy(&run.stdout);
    ensure!(run.status.success() && output.contains("1 passed"), "{output}{}", String::from_utf8_lossy(&run.stderr));
    Ok(())
}

fn believed(roots: &std::path::Path) -> Result<()> {
    let authority = Authority::new("believed")?;
    std::fs::write(roots, authority.pem())?;
    let app = Origin::http("app")?;
    let auth = Origin::https("auth", &authority.leaf(&["localhost"])?)?;
    let stand_of = |host: &str| {
        let url = format!("https://{host}:{}/", auth.address().port());
        stand(app.address(), &[("auth-url", &url)], "")
    };
    let response = get(stand_of("localhost")?.address("http"), "")?;
    assert_eq!((response.status, response.seen()?.name()), (200, "app"));
    // The certificate is for another name.
    let response = get(stand_of("127.0.0.1")?.address("http"), "")?;
    assert_eq!(fault(&response), (500, "auth_unreachable".to_owned()));
    Ok(())
}
