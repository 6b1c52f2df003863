//! Passwords (RFC 7617).

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_auth::{Credentials, Proof, is_costly, verify};
use headwater_model::gateway::{BasicAuth, PasswordHash};
use tokio::sync::Semaphore;

use super::Denial;
use crate::fault::{Fault, Reason};
use crate::message::Request;
use crate::worker::Worker;

/// Passwords that wait for their turn, those being checked included; more are refused.
const MOST_WAITING: usize = 64;
/// A password whose turn has not come by then is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// Turns to check a password, shared by all workers: half the cores hash, the others serve.
pub(crate) struct Passwords {
    waiting: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { waiting: Arc::new(Semaphore::new(MOST_WAITING)), turns: Arc::new(Semaphore::new((cores / 2).max(1))) }
    }
}

/// `None`: the request may go on.
pub(super) async fn check<R: Request>(
    worker: &Worker,
    request: &R,
    basic: &BasicAuth,
) -> Result<Option<Denial>, Fault> {
    let detail = match Credentials::parse(request.values("authorization")) {
        Err(rejected) => rejected.as_str(),
        Ok(credentials) => match is_known(worker, basic, credentials).await? {
            true => return Ok(None),
            false => "no such user, or another password",
        },
    };
    Ok(Some(Denial {
        reason: Reason::AuthRequired,
        detail: detail.to_owned(),
        challenges: vec![format!("Basic realm=\"{}\"", basic.realm).into_bytes()],
        cookies: Vec::new(),
        location: None,
    }))
}

async fn is_known(worker: &Worker, basic: &BasicAuth, credentials: Credentials) -> Result<bool, Fault> {
    let found = basic.users.find(&credentials.user);
    // Somebody else's hash, so that it takes as long to say no to a name as to a password.
    let Some(hash) = found.or_else(|| basic.users.any()) else { return Ok(false) };
    let proof = Proof::of(hash, &credentials.password);
    if found.is_some() && worker.proofs.borrow().holds(&proof, worker.uptime()) {
        return Ok(true);
    }
    let fits = match is_costly(hash) {
        false => verify(hash, &credentials.password),
        true => verify_aside(&worker.shared.passwords, hash.clone(), credentials.password).await?,
    };
    let known = fits && found.is_some();
    if known {
        worker.proofs.borrow_mut().add(proof, worker.uptime());
    }
    Ok(known)
}

/// Checks on another thread, when it is this one's turn.
async fn verify_aside(passwords: &Passwords, hash: PasswordHash, password: Vec<u8>) -> Result<bool, Fault> {
    let began = Instant::now();
    let overload = || Fault::new(Reason::AuthOverload).detail(format_args!("after {:?}", began.elapsed()));
    let place = passwords.waiting.clone().try_acquire_owned().map_err(|_| overload())?;
    let turn = tokio::time::timeout(PATIENCE, passwords.turns.clone().acquire_owned()).await;
    let turn = turn.map_err(|_| overload())?.map_err(|_| overload())?;
    // Whoever gives up waiting does not end the work: the turn is over when the work is.
    let work = tokio::task::spawn_blocking(move || {
        let fits = verify(&hash, &password);
        drop((turn, place));
        fits
    });
    work.await.map_err(|error| Fault::new(Reason::Internal).detail(error))
}
