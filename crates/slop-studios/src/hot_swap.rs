//! Values that a reload replaces while they are in use.

use std::sync::{Arc, PoisonError, RwLock};

/// A hot-swappable value. A reader keeps the value that it has read, also after a replacement.
///
/// Deliveries never read one; joins, tokens and requests do.
#[derive(Debug, Default)]
pub(crate) struct HotSwap<T>(RwLock<Arc<T>>);

impl<T> HotSwap<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The current value.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value for all later reads.
    pub(crate) fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
