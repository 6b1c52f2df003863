//! Read and write buffers, lent by the thread and given back on drop.
//!
//! An idle connection holds none; a busy one holds two or three small ones; a large body borrows a large one.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Room for a usual head, and for one TLS record.
pub(crate) const SMALL: usize = 16 << 10;
/// Room for one read of a large body.
pub(crate) const LARGE: usize = 64 << 10;

/// Kept for the next one to ask: 1 MiB of small ones and 2 MiB of large ones a worker.
const KEPT_SMALL: usize = 64;
const KEPT_LARGE: usize = 32;

/// Buffers that nobody holds.
struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { small: Vec::new(), large: Vec::new() }) };
}

/// A byte vector on loan.
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one with room for [`SMALL`] bytes.
    pub(crate) fn small() -> Self {
        let kept = POOL.with_borrow_mut(|pool| pool.small.pop());
        Self(kept.unwrap_or_else(|| Vec::with_capacity(SMALL)))
    }

    /// An empty one with room for [`LARGE`] bytes.
    pub(crate) fn large() -> Self {
        let kept = POOL.with_borrow_mut(|pool| pool.large.pop());
        Self(kept.unwrap_or_else(|| Vec::with_capacity(LARGE)))
    }

    /// One that holds nothing and has no room; costs nothing.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut vec = std::mem::take(&mut self.0);
        vec.clear();
        // A worker that ends drops its connections after its thread's pool: then the memory just goes.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            match vec.capacity() {
                SMALL if pool.small.len() < KEPT_SMALL => pool.small.push(vec),
                LARGE if pool.large.len() < KEPT_LARGE => pool.large.push(vec),
                _ => {}
            }
        });
    }
}
