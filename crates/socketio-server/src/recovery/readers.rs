//! Limits the sessions that are read back at a time for each address. The keeper reads some sessions at a time, in the
//! order of the requests, and after a restart all clients come back. So the clients of one address ask for a few
//! sessions at a time, and other clients don't wait behind all of them.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{address::Address, config::READS_PER_ADDRESS};

/// The readers of a shard.
#[derive(Default)]
pub(crate) struct Readers(RefCell<HashMap<Address, Arc<Semaphore>>>);

/// A client for which the keeper may read, or that waits for a permit.
pub(crate) struct Reader<'a> {
    readers: &'a Readers,
    address: Address,
    permit: Option<OwnedSemaphorePermit>,
}

impl Readers {
    /// Waits until the keeper may read for a client of this address.
    pub(crate) async fn enter(&self, address: Address) -> Reader<'_> {
        let permits =
            self.0.borrow_mut().entry(address).or_insert_with(|| Arc::new(Semaphore::new(READS_PER_ADDRESS))).clone();
        let mut reader = Reader { readers: self, address, permit: None };
        // The semaphore is never closed.
        reader.permit = permits.acquire_owned().await.ok();
        reader
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.permit = None;
        let mut addresses = self.readers.0.borrow_mut();
        // A client that waits or reads has a copy.
        if addresses.get(&self.address).is_some_and(|permits| Arc::strong_count(permits) == 1) {
            addresses.remove(&self.address);
            if addresses.is_empty() {
                addresses.shrink_to_fit();
            }
        }
    }
}
