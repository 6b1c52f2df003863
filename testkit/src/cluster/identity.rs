//! Who may talk to the API server: certificates, tokens, and the kubeconfig files that hold them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::certs::{Authority, Leaf};

/// The issuer of tokens, and the audience of the API server.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Names by which the API server is reached: from this machine, and from pods.
const NAMES: [&str; 7] = [
    "127.0.0.1",
    "localhost",
    super::SERVICE_V4,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The authority of a cluster and the key that signs tokens, as files of one directory.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
    authority: Authority,
    tokens: KeyPair,
}

impl Pki {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let pki = Self { dir: dir.to_owned(), authority: Authority::new("cluster")?, tokens: KeyPair::generate()? };
        fs::write(pki.file("ca.crt"), pki.authority.pem())?;
        fs::write(pki.file("tokens.key"), pki.tokens.serialize_pem())?;
        fs::write(pki.file("tokens.pub"), pki.tokens.public_key_pem())?;
        pki.save("apiserver", &pki.authority.leaf(&NAMES)?)?;
        Ok(pki)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn save(&self, name: &str, leaf: &Leaf) -> Result<()> {
        fs::write(self.file(&format!("{name}.crt")), &leaf.cert_pem)?;
        fs::write(self.file(&format!("{name}.key")), &leaf.key_pem)?;
        Ok(())
    }

    /// A kubeconfig with a certificate for a user. `name` is that of the files.
    pub(super) fn certificate(&self, name: &str, server: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        self.save(name, &self.authority.user(user, group)?)?;
        let (cert, key) = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        self.kubeconfig(name, server, &json!({ "client-certificate": cert, "client-key": key }))
    }

    /// A kubeconfig that names a file with a token. `name` is that of the files.
    pub(super) fn token(&self, name: &str, server: &str, token: &str) -> Result<TokenKubeconfig> {
        let file = self.file(&format!("{name}.token"));
        write(&file, token)?;
        let path = self.kubeconfig(name, server, &json!({ "tokenFile": file }))?;
        Ok(TokenKubeconfig { path, token: file })
    }

    fn kubeconfig(&self, name: &str, server: &str, user: &Value) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": self.file("ca.crt") } }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "current-context": "test",
        });
        let path = self.file(&format!("{name}.kubeconfig"));
        // JSON is YAML, too.
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// A token of a service account that the cluster itself did not issue, valid for `lifetime` from now: the API
    /// issues none for less than ten minutes.
    pub(super) fn sign(&self, namespace: &str, name: &str, uid: &str, lifetime: Duration) -> Result<String> {
        // The API server takes a token for this much longer than it says, for the sake of clocks that differ.
        const LEEWAY: u64 = 60;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("clock before 1970")?.as_secs() - LEEWAY;
        let claims = json!({
            "iss": ISSUER, "aud": [ISSUER], "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "iat": now, "nbf": now, "exp": now + lifetime.as_secs(),
            "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": name, "uid": uid } },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "JWT" })), part(&claims));
        let signature = raw_signature(&self.tokens.sign(text.as_bytes())?)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// ECDSA-Sig-Value (RFC 3279, 2.2.3: a DER sequence of two integers) to the form of JWS (RFC 7518, 3.4: r and s, 32
/// bytes each).
fn raw_signature(der: &[u8]) -> Result<[u8; 64]> {
    let mut raw = [0; 64];
    let mut rest = match der {
        [0x30, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
        _ => anyhow::bail!("signature is not a short DER sequence"),
    };
    for half in raw.chunks_exact_mut(32) {
        let [0x02, length, tail @ ..] = rest else { anyhow::bail!("signature holds something else than integers") };
        ensure!(usize::from(*length) <= tail.len(), "signature ends within an integer");
        let (number, tail) = tail.split_at(usize::from(*length));
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        ensure!(number.len() <= 32, "signature has an integer of {} bytes", number.len());
        half[32 - number.len()..].copy_from_slice(number);
        rest = tail;
    }
    Ok(raw)
}

/// Writes a file in one step, as the kubelet replaces tokens.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().context("file without a directory")?)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// A kubeconfig whose user is a token in a file of its own (`tokenFile`), so that the token can change.
#[derive(Debug)]
pub struct TokenKubeconfig {
    path: PathBuf,
    token: PathBuf,
}

impl TokenKubeconfig {
    /// Where the kubeconfig is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the token in one step.
    ///
    /// # Errors
    /// What the file system says.
    pub fn rotate(&self, token: &str) -> Result<()> {
        write(&self.token, token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_a_signature_lose_their_sign_byte_and_gain_leading_zeros() -> Result<()> {
        let mut der = vec![0x30, 2 + 33 + 2 + 1, 0x02, 33, 0];
        der.extend([0xff; 32]);
        der.extend([0x02, 1, 7]);
        let raw = raw_signature(&der)?;
        assert_eq!(raw[..32], [0xff; 32]);
        assert_eq!(raw[32..63], [0; 31]);
        assert_eq!(raw[63], 7);
        assert!(raw_signature(&der[..20]).is_err());
        Ok(())
    }
}
