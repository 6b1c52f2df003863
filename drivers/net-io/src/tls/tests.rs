use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use headwater_model::gateway::{Certificate, PrivateKey, TlsTermination, UpstreamTls, UpstreamVerify};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_model::settings::TlsVersion;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::client::ClientTls;
use super::server::ServerTls;
use super::*;
use crate::connect::{ConnectErrorKind, connect_tls};

const PATIENCE: Duration = Duration::from_secs(20);
const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
const BOTH: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

fn origin(name: &str) -> Origin {
    Origin { key: ObjectKey::new(Kind::Secret, "shop", name), generation: 0 }
}

fn certificate_of(secret: &str, names: &[&str], key: &KeyPair) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names.clone()).unwrap().self_signed(key).unwrap();
    Certificate {
        origin: origin(secret),
        chain: vec![certificate.der().to_vec()],
        key: PrivateKey::Pkcs8(key.serialize_der()),
        names,
        not_after: i64::MAX,
    }
}

fn certificate(secret: &str, names: &[&str]) -> Arc<Certificate> {
    Arc::new(certificate_of(secret, names, &KeyPair::generate().unwrap()))
}

fn rsa_certificate(secret: &str, names: &[&str]) -> Arc<Certificate> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    Arc::new(certificate_of(secret, names, &key))
}

fn termination(exact: &[(&str, &[&Arc<Certificate>])]) -> TlsTermination {
    let owned = |certificates: &[&Arc<Certificate>]| certificates.iter().map(|c| Arc::clone(c)).collect();
    TlsTermination {
        exact: exact.iter().map(|(name, certificates)| (Arc::from(*name), owned(certificates))).collect(),
        wildcard: HashMap::new(),
        default: None,
        min_version: TlsVersion::V1_2,
        http2: true,
        session_tickets: true,
        passthrough: Default::default(),
    }
}

/// Believes anybody, verifies only some schemes.
#[derive(Debug)]
struct Schemes(&'static [SignatureScheme]);

impl ServerCertVerifier for Schemes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.to_vec()
    }
}

fn client(schemes: &'static [SignatureScheme], version: &'static SupportedProtocolVersion) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Schemes(schemes)))
        .with_no_client_auth()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (ours, listener.accept().await.unwrap().0)
}

/// What a client saw of a server.
#[derive(Debug)]
struct Seen {
    leaf: Vec<u8>,
    kind: HandshakeKind,
    alpn: Option<Vec<u8>>,
}

/// One connection and one byte each way, so that session tickets arrive.
async fn visit(server: &ServerTls, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Seen> {
    let (ours, theirs) = pair().await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let serve = async {
        let mut stream = server.handshake(theirs, PATIENCE).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await
    };
    let ask = async {
        let mut stream = TlsConnector::from(config.clone()).connect(name, ours).await?;
        stream.write_u8(7).await?;
        stream.flush().await?;
        assert_eq!(stream.read_u8().await?, 7);
        let connection = stream.get_ref().1;
        Ok::<_, std::io::Error>(Seen {
            leaf: connection.peer_certificates().unwrap()[0].to_vec(),
            kind: connection.handshake_kind().unwrap(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        })
    };
    let (served, seen) = tokio::join!(serve, ask);
    let seen = seen?;
    served?;
    Ok(seen)
}

#[tokio::test]
async fn the_certificate_is_chosen_by_sni() {
    let exact = certificate("exact", &["www.example.com"]);
    let wildcard = certificate("wildcard", &["*.example.com"]);
    let default = certificate("default", &["default.test"]);
    let mut both = termination(&[("www.example.com", &[&exact])]);
    both.wildcard.insert("example.com".into(), vec![wildcard.clone()]);
    let without_default = ServerTls::new(&both, None).unwrap();
    both.default = Some(default.clone());
    let with_default = ServerTls::new(&both, None).unwrap();

    let config = Arc::new(client(BOTH, &rustls::version::TLS13));
    for (name, expected) in [
        ("www.example.com", &exact),
        ("WWW.Example.COM", &exact),
        ("api.example.com", &wildcard),
        ("example.com", &default),
        ("a.b.example.com", &default),
        ("www.example.org", &default),
        ("127.0.0.1", &default),
    ] {
        let seen = visit(&with_default, &config, name).await.unwrap();
        assert!(seen.leaf == expected.chain[0], "{name} was not served by {:?}", expected.origin);
    }

    let own = visit(&without_default, &config, "www.example.org").await.unwrap().leaf;
    assert!(own != default.chain[0]);
    for text in ["headwater default certificate", "headwater.invalid"] {
        assert!(own.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
    let other_listener = ServerTls::new(&termination(&[]), None).unwrap();
    assert!(visit(&other_listener, &config, "x.test").await.unwrap().leaf == own, "made once a process");
}

#[tokio::test]
async fn of_several_certificates_the_client_gets_one_it_can_verify() {
    let (rsa, ecdsa) = (rsa_certificate("rsa", &["a.test"]), certificate("ecdsa", &["a.test"]));
    for order in [[&rsa, &ecdsa], [&ecdsa, &rsa]] {
        let server = ServerTls::new(&termination(&[("a.test", &order)]), None).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for (schemes, expected) in [(ECDSA, &ecdsa), (RSA, &rsa), (BOTH, &ecdsa)] {
                let config = Arc::new(client(schemes, version));
                let seen = visit(&server, &config, "a.test").await.unwrap();
                assert!(seen.leaf == expected.chain[0], "{schemes:?} over {:?}", version.version);
            }
        }
    }
    let only_rsa = ServerTls::new(&termination(&[("a.test", &[&rsa])]), None).unwrap();
    let config = Arc::new(client(ECDSA, &rustls::version::TLS13));
    assert!(visit(&only_rsa, &config, "a.test").await.is_err(), "the default certificate is not for a known name");
}

#[tokio::test]
async fn a_session_is_resumed_after_a_configuration_change() {
    let kept = certificate("kept", &["kept.test"]);
    let before = termination(&[("kept.test", &[&kept])]);
    let after = termination(&[("kept.test", &[&kept]), ("new.test", &[&certificate("new", &["new.test"])])]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = ServerTls::new(&before, None).unwrap();
        let config = Arc::new(client(BOTH, version));
        assert_eq!(visit(&server, &config, "kept.test").await.unwrap().kind, HandshakeKind::Full);
        assert_eq!(visit(&server, &config, "kept.test").await.unwrap().kind, HandshakeKind::Resumed);

        let changed = ServerTls::new(&after, Some(&server)).unwrap();
        assert_eq!(visit(&changed, &config, "kept.test").await.unwrap().kind, HandshakeKind::Resumed, "{version:?}");
        assert_eq!(visit(&changed, &config, "new.test").await.unwrap().kind, HandshakeKind::Full);

        let stranger = ServerTls::new(&after, None).unwrap();
        assert_ne!(visit(&stranger, &config, "kept.test").await.unwrap().kind, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn without_session_tickets_every_handshake_is_full() {
    let mut off = termination(&[]);
    off.session_tickets = false;
    let server = ServerTls::new(&off, None).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(client(BOTH, version));
        for _ in 0..2 {
            assert_ne!(visit(&server, &config, "a.test").await.unwrap().kind, HandshakeKind::Resumed, "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_certificate_is_named_and_the_others_serve() {
    let good = certificate("good", &["good.test"]);
    let foreign_key = Arc::new(Certificate { key: good.key.clone(), ..(*certificate("bad", &["bad.test"])).clone() });
    let garbage =
        Arc::new(Certificate { chain: vec![b"garbage".to_vec()], origin: origin("garbage"), ..(*good).clone() });
    let empty = Arc::new(Certificate { chain: Vec::new(), origin: origin("empty"), ..(*good).clone() });
    let no_key =
        Arc::new(Certificate { key: PrivateKey::Sec1(vec![1, 2, 3]), origin: origin("no-key"), ..(*good).clone() });
    let mut termination = termination(&[
        ("good.test", &[&garbage, &good]),
        ("www.bad.test", &[&foreign_key, &empty]),
        ("no-key.test", &[&no_key]),
    ]);
    termination.wildcard.insert("bad.test".into(), vec![good.clone()]);
    termination.default = Some(garbage.clone());

    let server = ServerTls::new(&termination, None).unwrap();
    let names: Vec<String> = server.faults().iter().map(|fault| fault.origin.to_string()).collect();
    assert_eq!(names, ["Secret shop/bad", "Secret shop/empty", "Secret shop/garbage", "Secret shop/no-key"]);
    assert!(server.faults()[0].to_string().starts_with("Secret shop/bad: certificate is not usable"));

    let config = Arc::new(client(BOTH, &rustls::version::TLS13));
    for name in ["good.test", "www.bad.test"] {
        assert!(visit(&server, &config, name).await.unwrap().leaf == good.chain[0], "{name}");
    }
    assert!(visit(&server, &config, "no-key.test").await.unwrap().leaf != good.chain[0]);

    termination.exact.remove("www.bad.test");
    let mended = ServerTls::new(&termination, Some(&server)).unwrap();
    assert_eq!(mended.faults().len(), 2, "faults of certificates no longer named are gone");
}

#[tokio::test]
async fn versions_and_protocols_are_those_of_the_settings() {
    let mut settings = termination(&[]);
    settings.min_version = TlsVersion::V1_3;
    settings.http2 = false;
    let strict = ServerTls::new(&settings, None).unwrap();
    let usual = ServerTls::new(&termination(&[]), None).unwrap();
    for (server, version, offered, expected) in [
        (&usual, &rustls::version::TLS12, &["h2", "http/1.1"][..], Some("h2")),
        (&usual, &rustls::version::TLS13, &["http/1.1", "h2"], Some("h2")),
        (&usual, &rustls::version::TLS13, &["http/1.1"], Some("http/1.1")),
        (&strict, &rustls::version::TLS13, &["h2", "http/1.1"], Some("http/1.1")),
        (&usual, &rustls::version::TLS13, &[], Some("")),
        (&strict, &rustls::version::TLS12, &["http/1.1"], None),
        (&strict, &rustls::version::TLS13, &["h2"], None),
    ] {
        let mut config = client(BOTH, version);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let seen = visit(server, &Arc::new(config), "a.test").await;
        let alpn = seen.ok().map(|seen| String::from_utf8(seen.alpn.unwrap_or_default()).unwrap());
        assert_eq!(alpn.as_deref(), expected, "{offered:?} over {:?}", version.version);
    }
}

#[tokio::test]
async fn a_silent_client_times_out() {
    let server = ServerTls::new(&termination(&[]), None).unwrap();
    let (_ours, theirs) = pair().await;
    let error = server.handshake(theirs, Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

fn upstream(verify: UpstreamVerify, server_name: Option<&str>) -> UpstreamTls {
    UpstreamTls { verify, server_name: server_name.map(Into::into) }
}

#[tokio::test]
async fn a_server_is_believed_as_the_settings_say() {
    let named = certificate("named", &["backend.test"]);
    let numbered = certificate("numbered", &["127.0.0.1"]);
    let roots = |certificate: &Arc<Certificate>| UpstreamVerify::Roots(Arc::new(certificate.chain.clone()));
    let by_name = ServerTls::new(&termination(&[("backend.test", &[&named])]), None).unwrap();
    let mut default = termination(&[]);
    default.default = Some(numbered.clone());
    let by_number = ServerTls::new(&default, None).unwrap();

    for (server, verify, setting, host, believed) in [
        (&by_name, UpstreamVerify::Off, None, Some("whatever.test"), true),
        (&by_name, UpstreamVerify::Off, None, Some("not a name"), true),
        (&by_name, UpstreamVerify::Off, None, None, true),
        (&by_name, UpstreamVerify::SystemRoots, Some("backend.test"), None, false),
        (&by_name, roots(&named), Some("backend.test"), None, true),
        (&by_name, roots(&named), None, Some("backend.test"), true),
        (&by_name, roots(&named), Some("backend.test"), Some("other.test"), true),
        (&by_name, roots(&named), Some("other.test"), Some("backend.test"), false),
        (&by_name, roots(&named), None, None, false),
        (&by_name, roots(&numbered), Some("backend.test"), None, false),
        (&by_number, roots(&numbered), None, None, true),
        (&by_number, roots(&numbered), Some("127.0.0.1"), Some("other.test"), true),
        (&by_number, roots(&numbered), Some("127.0.0.2"), None, false),
    ] {
        let tls = match ClientTls::new(&upstream(verify.clone(), setting), &[b"http/1.1"]) {
            Ok(tls) => tls,
            // A host without any authority installed believes nobody either.
            Err(TlsError::NoSystemRoots { .. }) if !believed => continue,
            Err(e) => panic!("{e:?}"),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async { server.handshake(listener.accept().await.unwrap().0, PATIENCE).await };
        let (_, connected) = tokio::join!(serve, connect_tls(address, &tls, host, b"", PATIENCE));
        match connected {
            Ok(_) => assert!(believed, "believed with {setting:?} and {host:?}"),
            Err(e) => {
                assert!(!believed, "{e:?} with {setting:?} and {host:?}");
                assert_eq!(e.kind, ConnectErrorKind::Tls);
            }
        }
    }
}

#[tokio::test]
async fn even_who_believes_anybody_asks_for_the_key() {
    // Somebody else's certificate with a key of one's own.
    let stolen = certificate("stolen", &["a.test"]);
    let own = KeyPair::generate().unwrap();
    let key = provider().key_provider.load_private_key(own.serialize_der().try_into().unwrap()).unwrap();
    let chain = vec![CertificateDer::from(stolen.chain[0].clone())];
    let forged = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(forged.clone())));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let stream = listener.accept().await.unwrap().0;
            tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await
        };
        let tls = ClientTls::new(&upstream(UpstreamVerify::Off, None), &[]).unwrap();
        let (_, connected) = tokio::join!(serve, connect_tls(address, &tls, Some("a.test"), b"", PATIENCE));
        assert_eq!(connected.unwrap_err().kind, ConnectErrorKind::Tls, "{version:?}");
    }
}

#[test]
fn settings_that_could_believe_nobody_are_refused() {
    let refused = |verify, name| ClientTls::new(&upstream(verify, name), &[]).err().unwrap();
    assert!(matches!(refused(UpstreamVerify::Roots(Arc::new(Vec::new())), None), TlsError::NoAuthority));
    let garbage = UpstreamVerify::Roots(Arc::new(vec![b"garbage".to_vec()]));
    assert!(matches!(refused(garbage, None), TlsError::Authority { index: 0, .. }));
    assert!(matches!(refused(UpstreamVerify::Off, Some("not a name")), TlsError::ServerName { .. }));
}

#[tokio::test]
async fn the_preface_comes_before_the_handshake() {
    let server = ServerTls::new(&termination(&[]), None).unwrap();
    let tls = ClientTls::new(&upstream(UpstreamVerify::Off, None), &[b"h2"]).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let mut stream = listener.accept().await.unwrap().0;
        let mut preface = [0; 6];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PROXY ");
        server.handshake(stream, PATIENCE).await.unwrap()
    };
    let (_stream, connected) = tokio::join!(serve, connect_tls(address, &tls, None, b"PROXY ", PATIENCE));
    assert_eq!(connected.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn the_timeout_covers_the_handshake() {
    let tls = ClientTls::new(&upstream(UpstreamVerify::Off, None), &[]).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let error = connect_tls(address, &tls, None, b"", Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::TimedOut, "{error:?}");
}

#[test]
fn only_a_changed_certificate_is_parsed_again() {
    let (kept, broken) = (certificate("kept", &["kept.test"]), certificate("broken", &["broken.test"]));
    let broken = Arc::new(Certificate { chain: vec![b"garbage".to_vec()], ..(*broken).clone() });
    let edited = |names: &[&str]| Arc::new((*certificate("edited", names)).clone());
    let (before, after) = (edited(&["a.test"]), edited(&["a.test", "b.test"]));
    let first = ServerTls::new(
        &termination(&[("kept.test", &[&kept]), ("broken.test", &[&broken]), ("a.test", &[&before])]),
        None,
    )
    .unwrap();
    let second = ServerTls::new(
        &termination(&[("kept.test", &[&kept]), ("broken.test", &[&broken]), ("a.test", &[&after])]),
        Some(&first),
    )
    .unwrap();
    let same = |certificate| match (first.key(certificate), second.key(certificate)) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        _ => false,
    };
    assert!(same(&kept), "parsed twice");
    assert!(second.key(&before).is_none(), "held although nothing names it");
    assert!(first.key(&after).is_none() && second.key(&after).is_some());
    assert_eq!(second.faults().len(), 1, "a fault stays one");
}
