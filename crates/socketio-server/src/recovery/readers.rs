//! Whose sessions are read back. The keeper reads for some at a time, in the order in which they came, and after a restart
//! everybody comes: so the clients of one address ask for a few at a time, and others don't wait behind all of them.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use tokio::sync::Semaphore;

use crate::{address::Address, config::READS_PER_ADDRESS};

/// Those of a shard's clients.
#[derive(Default)]
pub(crate) struct Readers(RefCell<HashMap<Address, Rc<Semaphore>>>);

/// A client for which the keeper may read; given back when dropped.
pub(crate) struct Reader<'a> {
    readers: &'a Readers,
    address: Address,
    places: Rc<Semaphore>,
    has_place: bool,
}

impl Readers {
    /// Waits until the keeper may read for a client of this address.
    pub(crate) async fn enter(&self, address: Address) -> Reader<'_> {
        let places =
            self.0.borrow_mut().entry(address).or_insert_with(|| Rc::new(Semaphore::new(READS_PER_ADDRESS))).clone();
        let mut reader = Reader { readers: self, address, places, has_place: false };
        if let Ok(place) = reader.places.acquire().await {
            place.forget();
            reader.has_place = true;
        }
        reader
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if self.has_place {
            self.places.add_permits(1);
        }
        // The map's and this one: nobody else waits or reads.
        if Rc::strong_count(&self.places) == 2 {
            let mut addresses = self.readers.0.borrow_mut();
            addresses.remove(&self.address);
            if addresses.is_empty() {
                addresses.shrink_to_fit();
            }
        }
    }
}
