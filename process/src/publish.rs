//! Snapshots from one writer to many readers that never block.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// Two handles on a value that starts as `initial`. Works across threads and runtimes.
pub fn publish<T>(initial: impl Into<Arc<T>>) -> (Publisher<T>, Subscriber<T>) {
    let current = Arc::new(ArcSwap::new(initial.into()));
    let (changes, seen) = watch::channel(());
    (Publisher { current: current.clone(), changes }, Subscriber { cached: current.load_full(), current, seen })
}

/// The one writer.
#[derive(Debug)]
pub struct Publisher<T> {
    current: Arc<ArcSwap<T>>,
    changes: watch::Sender<()>,
}

impl<T> Publisher<T> {
    /// Replaces the value, then wakes those who wait in [`Subscriber::changed`].
    pub fn publish(&self, value: impl Into<Arc<T>>) {
        self.current.store(value.into());
        self.changes.send_replace(());
    }

    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Another reader, which has seen the present value.
    pub fn subscribe(&self) -> Subscriber<T> {
        // Subscribed first: a value published in between is then seen twice rather than never.
        let seen = self.changes.subscribe();
        Subscriber { cached: self.current.load_full(), current: self.current.clone(), seen }
    }
}

/// A reader.
#[derive(Debug)]
pub struct Subscriber<T> {
    current: Arc<ArcSwap<T>>,
    cached: Arc<T>,
    seen: watch::Receiver<()>,
}

// Not derived: `T` need not be `Clone`.
impl<T> Clone for Subscriber<T> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), cached: self.cached.clone(), seen: self.seen.clone() }
    }
}

/// The writer is gone: the value will not change any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the publisher is gone")]
pub struct PublisherGone;

impl<T> Subscriber<T> {
    /// The present value.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// The present value, without touching its reference count while it stays the same: for a worker that looks at it
    /// once per request.
    pub fn cached(&mut self) -> &Arc<T> {
        let current = self.current.load();
        if !Arc::ptr_eq(&self.cached, &current) {
            self.cached = arc_swap::Guard::into_inner(current);
        }
        &self.cached
    }

    /// Waits until something was published since this subscriber was made, or since the last time it waited. Several
    /// publications count as one. Safe to cancel.
    ///
    /// # Errors
    /// [`PublisherGone`] once there is nothing unseen and nobody to publish more.
    pub async fn changed(&mut self) -> Result<(), PublisherGone> {
        self.seen.changed().await.map_err(|_| PublisherGone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_see_the_last_value_and_wake_once() {
        let (publisher, mut reader) = publish(0);
        let mut idle = reader.clone();
        publisher.publish(1);
        publisher.publish(2);
        reader.changed().await.unwrap();
        assert_eq!((*reader.load(), **reader.cached()), (2, 2));
        assert_eq!(**idle.cached(), 2, "without waiting");

        let mut late = publisher.subscribe();
        for quiet in [&mut reader, &mut late] {
            tokio::select! {
                biased;
                result = quiet.changed() => panic!("nothing was published: {result:?}"),
                () = std::future::ready(()) => {}
            }
        }
        drop(publisher);
        assert_eq!(reader.changed().await, Err(PublisherGone));
        assert_eq!(*reader.load(), 2);
    }

    #[test]
    fn a_value_wakes_another_runtime() {
        let (publisher, mut reader) = publish(0_u64);
        let waiting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                while *reader.load() < 1000 {
                    reader.changed().await.unwrap();
                }
                *reader.load()
            })
        });
        for value in 1..=1000_u64 {
            publisher.publish(value);
        }
        assert_eq!(waiting.join().unwrap(), 1000);
    }

    #[test]
    fn an_old_value_is_freed_once_no_reader_holds_it() {
        let first = Arc::new(1);
        let (publisher, mut reader) = publish(first.clone());
        publisher.publish(2);
        assert_eq!(Arc::strong_count(&first), 2, "the reader's last look");
        assert_eq!(**reader.cached(), 2);
        assert_eq!(Arc::strong_count(&first), 1);
    }
}
