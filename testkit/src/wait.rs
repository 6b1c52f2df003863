//! Waiting for a condition, with a deadline. The one place where tests may poll.

use std::panic::Location;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The deadline for one step of a test on a busy machine. A step that works takes milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds.
///
/// # Errors
/// When `deadline` passes first; the text names the caller's file and line.
#[track_caller]
pub fn until(deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    value(deadline, || condition().then_some(()))
}

/// Waits until `find` finds something, and returns it.
///
/// # Errors
/// When `deadline` passes first; the text names the caller's file and line.
#[track_caller]
pub fn value<T>(deadline: Duration, mut find: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let caller = Location::caller();
    // Short at first, since most conditions hold at once; then bounded, to leave the processor to others.
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if start.elapsed() >= deadline {
            bail!("condition at {caller} does not hold after {deadline:?}");
        }
        thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits until `find` finds something, and returns it; an error of `find` ends the wait. For questions that are asked
/// by messages: the next one follows the answer after 20 ms.
///
/// # Errors
/// That of `find`, or when `deadline` passes first; the text names the caller's file and line.
#[track_caller]
pub fn eventually<T, F: Future<Output = Result<Option<T>>>>(
    deadline: Duration,
    mut find: impl FnMut() -> F,
) -> impl Future<Output = Result<T>> {
    let caller = Location::caller();
    let search = async move {
        loop {
            if let Some(found) = find().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    async move {
        match tokio::time::timeout(deadline, search).await {
            Ok(found) => found,
            Err(_) => bail!("condition at {caller} does not hold after {deadline:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_ends_with_the_callers_place() {
        let error = until(Duration::from_millis(5), || false).unwrap_err().to_string();
        assert!(error.contains("wait.rs"), "{error}");
    }

    #[test]
    fn a_value_is_returned_once_it_is_there() {
        let mut left = 3;
        let found = value(DEADLINE, || {
            left -= 1;
            (left == 0).then_some("there")
        });
        assert_eq!(found.unwrap(), "there");
    }
}
