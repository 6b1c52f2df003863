//! A certificate in files that somebody else renews.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::origin::NamespacedName;

use super::{CertificateError, Current, Serving};

/// The files are looked at this often. A mounted Secret follows its object within a minute or two anyway.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

type Files = (Vec<u8>, Vec<u8>);

fn read(directory: &Path) -> Result<Files, CertificateError> {
    let file = |name| {
        let path = directory.join(name);
        std::fs::read(&path).map_err(|source| CertificateError::Unreadable { path, source })
    };
    Ok((file("tls.crt")?, file("tls.key")?))
}

fn serve(directory: &Path, files: &Files, clients: Option<&[Vec<u8>]>) -> Result<Serving, CertificateError> {
    let name = NamespacedName::new("", directory.display().to_string());
    Serving::new(&name, &files.0, &files.1, clients)
}

/// What the files hold now.
///
/// # Errors
/// [`CertificateError`].
pub(super) fn load(directory: &Path, clients: Option<&[Vec<u8>]>) -> Result<Serving, CertificateError> {
    serve(directory, &read(directory)?, clients)
}

/// Follows the files. What cannot be used (one file is new, the other is not yet) leaves what was served.
pub(super) async fn keep(
    directory: &Path,
    interval: Duration,
    clients: Option<&[Vec<u8>]>,
    current: &Current,
) -> Infallible {
    let mut ticks = tokio::time::interval(interval);
    let mut seen: Option<Files> = None;
    loop {
        ticks.tick().await;
        let served = match read(directory) {
            Ok(files) if seen.as_ref() == Some(&files) => continue,
            Ok(files) => {
                let served = serve(directory, &files, clients);
                seen = Some(files);
                served
            }
            // Told once, not at every look.
            Err(_) if seen.is_none() && current.borrow().is_some() => continue,
            Err(error) => {
                seen = None;
                Err(error)
            }
        };
        match served {
            Ok(serving) => {
                tracing::info!(directory = %directory.display(), "webhook certificate loaded");
                current.send_replace(Some(Arc::new(serving)));
            }
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "webhook certificate not usable, the last one stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater_testkit::certs::Authority;
    use tokio::sync::watch;

    use super::*;

    fn write(directory: &Path, leaf: &headwater_testkit::certs::Leaf, which: &[&str]) {
        for (name, text) in [("tls.crt", &leaf.cert_pem), ("tls.key", &leaf.key_pem)] {
            if which.contains(&name) {
                std::fs::write(directory.join(name), text).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_new_pair_is_served_and_half_a_pair_is_not() {
        let authority = Authority::new("test").unwrap();
        let [first, second] = [(); 2].map(|()| authority.leaf(&["a.test"]).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(matches!(load(path, None), Err(CertificateError::Unreadable { .. })));
        write(path, &first, &["tls.crt", "tls.key"]);
        let (current, mut seen) = watch::channel(None);
        let keep = keep(path, Duration::from_millis(5), None, &current);
        let follow = async {
            seen.changed().await.unwrap();
            write(path, &second, &["tls.crt"]);
            // The key of the other certificate: nothing is announced until it is there.
            assert!(matches!(load(path, None), Err(CertificateError::Refused(_))));
            write(path, &second, &["tls.key"]);
            seen.changed().await.unwrap();
            assert!(load(path, None).is_ok());
        };
        tokio::select! {
            never = keep => match never {},
            done = tokio::time::timeout(headwater_testkit::wait::DEADLINE, follow) => done.unwrap(),
        }
    }
}
