//! What can be replaced while others use it.

use std::sync::{Arc, PoisonError, RwLock};

/// A value of which a reload puts another in force. Whoever has got one goes on with it.
///
/// Nothing that is done for each delivery reads one: joins, tokens and requests do.
#[derive(Debug, Default)]
pub(crate) struct InForce<T>(RwLock<Arc<T>>);

impl<T> InForce<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The one in force now.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in force: whoever asks from now on gets it.
    pub(crate) fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
