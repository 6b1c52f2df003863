//! Carries out the steps: reads and writes the Secret and the configuration.
//!
//! ```text
//!  Secret ──watch──────────> Keeper ──serve──> connections      (every replica)
//!  configuration ──watch──>    │
//!                              └──step──> Secret, configuration (the leader)
//! ```

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use headwater_kube_io::{ApiError, ObjectWatch, StoredSecret, TrustedBundles};
use headwater_net_io::tls::pem;
use jiff::Timestamp;

use super::issue::{IssueError, Material};
use super::step::{Action, Der, Kept, Step, Trusted, step};
use super::{Current, Managed, Serving};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A renewal is looked for this often, whatever was calculated: clocks jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// After a write that did not arrive; doubled up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

struct Keeper<'a> {
    managed: Managed,
    clients: Option<&'a [Vec<u8>]>,
    current: &'a Current,
    /// `None` until it was looked for.
    secret: Option<Option<StoredSecret>>,
    /// The last that could be used; it outlives its Secret.
    material: Option<(Material, Kept)>,
    /// Whether the Secret holds `material`.
    is_stored: bool,
    bundles: Option<TrustedBundles>,
    trusted: Option<Trusted>,
    pause: Duration,
}

pub(super) async fn keep(managed: Managed, clients: Option<&[Vec<u8>]>, current: &Current) -> Infallible {
    let mut secrets = managed.server.watch_secret(&managed.secret);
    let mut leading = managed.leading.clone();
    let mut configurations: Option<ObjectWatch<TrustedBundles>> = None;
    // The configuration was looked for since we lead.
    let mut configuration_seen = false;
    let mut keeper = Keeper {
        managed,
        clients,
        current,
        secret: None,
        material: None,
        is_stored: false,
        bundles: None,
        trusted: None,
        pause: PAUSE,
    };
    loop {
        let leads = *leading.borrow_and_update();
        if leads != configurations.is_some() {
            configurations = leads.then(|| keeper.managed.server.watch_ca_bundles(&keeper.managed.configuration));
            configuration_seen = false;
            keeper.see_bundles(None);
        }
        let sleep =
            if leads && configuration_seen && keeper.secret.is_some() { keeper.work().await } else { LONGEST_SLEEP };
        tokio::select! {
            seen = secrets.next() => match seen {
                Ok(secret) => keeper.see_secret(secret),
                Err(error) => tracing::warn!(%error, "webhook certificate: Secret is not seen"),
            },
            seen = next(&mut configurations) => match seen {
                Ok(bundles) => {
                    if bundles.is_none() {
                        let name = &keeper.managed.configuration;
                        tracing::warn!(configuration = %name, "webhook configuration does not exist, nobody asks us");
                    }
                    configuration_seen = true;
                    keeper.see_bundles(bundles);
                }
                Err(error) => tracing::warn!(%error, "webhook certificate: configuration is not seen"),
            },
            changed = leading.changed() => {
                // Whoever told us who leads is gone: nobody does.
                if changed.is_err() {
                    configurations = None;
                    keeper.only_serve(&mut secrets).await;
                }
            }
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

async fn next(watch: &mut Option<ObjectWatch<TrustedBundles>>) -> Result<Option<TrustedBundles>, ApiError> {
    match watch {
        Some(watch) => watch.next().await,
        None => pending().await,
    }
}

impl Keeper<'_> {
    async fn only_serve(&mut self, secrets: &mut ObjectWatch<StoredSecret>) -> Infallible {
        loop {
            match secrets.next().await {
                Ok(secret) => self.see_secret(secret),
                Err(error) => tracing::warn!(%error, "webhook certificate: Secret is not seen"),
            }
        }
    }

    fn see_secret(&mut self, secret: Option<StoredSecret>) {
        let read = secret.as_ref().map(|stored| {
            let material = Material::read(&stored.data)?;
            let kept = material.kept(&self.managed.names)?;
            Ok::<_, IssueError>((material, kept))
        });
        self.secret = Some(secret);
        self.is_stored = matches!(read, Some(Ok(_)));
        match read {
            Some(Ok((material, kept))) => {
                let is_new = self.material.as_ref().is_none_or(|(before, _)| before.serving != material.serving);
                if is_new {
                    self.serve(&material);
                }
                self.material = Some((material, kept));
            }
            Some(Err(error)) => {
                tracing::warn!(secret = %self.managed.secret, %error, "webhook certificate: Secret is not usable");
            }
            None => {}
        }
    }

    fn serve(&self, material: &Material) {
        let serving = &material.serving;
        let loaded =
            Serving::new(&self.managed.secret, serving.certificate.as_bytes(), serving.key.as_bytes(), self.clients);
        match loaded {
            Ok(serving) => {
                let not_after = serving.not_after.map(|at| at.to_string()).unwrap_or_default();
                tracing::info!(secret = %self.managed.secret, not_after, "webhook certificate loaded");
                self.current.send_replace(Some(Arc::new(serving)));
            }
            Err(error) => tracing::warn!(secret = %self.managed.secret, %error, "webhook certificate is not usable"),
        }
    }

    fn see_bundles(&mut self, bundles: Option<TrustedBundles>) {
        let named: Option<Vec<Option<Vec<Der>>>> = bundles.as_ref().map(|bundles| {
            let authorities = |pem: &Vec<u8>| {
                let ders = pem::certificates(pem).ok()?;
                Some(ders.into_iter().map(Der::from).collect())
            };
            bundles.webhooks.iter().map(|(_, pem)| authorities(pem)).collect()
        });
        self.bundles = bundles;
        if self.trusted.as_ref().map(|trusted| &trusted.bundles) != named.as_ref() {
            self.trusted = named.map(|bundles| Trusted { bundles, since: Timestamp::now() });
        }
    }

    fn step(&self, now: Timestamp, kept: Option<&Kept>) -> Step {
        step(now, kept, self.trusted.as_ref(), &self.managed.lives)
    }

    /// Does what is due, and tells how long to sleep.
    async fn work(&mut self) -> Duration {
        if self.material.is_none() && is_foreign(self.secret.as_ref().and_then(Option::as_ref)) {
            tracing::warn!(
                secret = %self.managed.secret,
                "webhook certificate: Secret is somebody else's and stays (name another, or delete it)"
            );
            return LONGEST_PAUSE;
        }
        loop {
            let now = Timestamp::now();
            let action = match (&self.material, self.is_stored) {
                // Somebody deleted or spoilt the Secret: what we served is still believed.
                (Some(_), false) => None,
                (material, _) => match self.step(now, material.as_ref().map(|(_, kept)| kept)) {
                    Step::Wait(until) => {
                        let left = Duration::try_from(now.duration_until(until)).unwrap_or_default();
                        return left.min(LONGEST_SLEEP).max(Duration::from_millis(1));
                    }
                    Step::Act(action) => Some(action),
                },
            };
            let done = match action {
                Some(Action::Trust) => self.trust().await,
                action => self.store(action, now).await,
            };
            match done {
                Ok(()) => self.pause = PAUSE,
                Err(error) => {
                    tracing::warn!(?action, error = %WithCauses(&*error), "webhook certificate: a write did not arrive");
                    let pause = self.pause;
                    self.pause = (pause * 2).min(LONGEST_PAUSE);
                    return pause;
                }
            }
        }
    }

    async fn store(&mut self, action: Option<Action>, now: Timestamp) -> Result<(), BoxError> {
        let Managed { names, lives, .. } = &self.managed;
        let material = match (&self.material, action) {
            (Some((material, _)), None) => material.clone(),
            (Some((material, _)), Some(action)) => material.after(action, now, names, lives)?,
            (None, _) => Material::begin(now, names, lives)?,
        };
        let before = self.secret.as_ref().and_then(Option::as_ref);
        let written = self.managed.server.write_secret(&self.managed.secret, material.write(), before).await;
        match written {
            Ok(secret) => {
                tracing::info!(secret = %self.managed.secret, ?action, "webhook certificate: Secret written");
                self.see_secret(Some(secret));
                Ok(())
            }
            Err(error) => {
                // Somebody wrote in between, or our watch is behind.
                if let Ok(secret) = self.managed.server.read_secret(&self.managed.secret).await {
                    self.see_secret(secret);
                }
                Err(error.into())
            }
        }
    }

    async fn trust(&mut self) -> Result<(), BoxError> {
        let (Some((material, _)), Some(bundles)) = (&self.material, &self.bundles) else { return Ok(()) };
        let name = &self.managed.configuration;
        let written = self.managed.server.set_ca_bundles(name, bundles, material.bundle().as_bytes()).await?;
        tracing::info!(configuration = %name, "webhook certificate: bundle of the configuration written");
        self.see_bundles(Some(written));
        Ok(())
    }
}

/// Whether a Secret has content that we never made: all of ours has the authority's key.
fn is_foreign(secret: Option<&StoredSecret>) -> bool {
    secret.is_some_and(|stored| !stored.data.is_empty() && !stored.data.contains_key("ca.key"))
}

/// An error with its causes.
struct WithCauses<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Lives;

    #[test]
    fn a_secret_of_somebody_else_is_told_from_one_that_is_spoilt() {
        let stored = |keys: &[&str]| StoredSecret {
            data: keys.iter().map(|key| ((*key).to_owned(), b"x".to_vec())).collect(),
            version: "1".to_owned(),
        };
        let made = Material::begin(Timestamp::now(), &["a.test".to_owned()], &Lives::default()).unwrap();
        let ours = StoredSecret { data: made.write(), version: "1".to_owned() };
        for (secret, foreign) in [
            (None, false),
            (Some(stored(&[])), false),
            (Some(stored(&["ca.key"])), false),
            (Some(ours), false),
            (Some(stored(&["tls.crt", "tls.key"])), true),
            (Some(stored(&["password"])), true),
        ] {
            assert_eq!(is_foreign(secret.as_ref()), foreign, "{secret:?}");
        }
    }
}
