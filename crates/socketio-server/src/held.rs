//! What peers make a shard hold: bytes of messages that are not whole yet, or wait to be handled. One account for all, in which
//! each address has a share.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
};

use crate::{
    Event, Limit,
    address::Address,
    config::{ADDRESS_SHARE, EVENT_OVERHEAD, SMALL_UNFINISHED},
    connection::Connection,
    shard::Shard,
};

/// See the module.
#[derive(Default)]
pub(crate) struct Account {
    bytes: Cell<usize>,
    /// What is held for addresses, little ones not counted: hardly any client holds more than that.
    addresses: RefCell<HashMap<Address, usize>>,
}

impl Account {
    /// What is held in all, and for the address.
    fn change(&self, address: Option<Address>, before: usize, after: usize) -> (usize, usize) {
        self.bytes.set(self.bytes.get().saturating_sub(before).saturating_add(after));
        let counted = |bytes: usize| if bytes > SMALL_UNFINISHED { bytes } else { 0 };
        let (before, after) = (counted(before), counted(after));
        let (Some(address), true) = (address, before != 0 || after != 0) else { return (self.bytes.get(), 0) };
        let mut addresses = self.addresses.borrow_mut();
        let held = addresses.entry(address).or_default();
        *held = held.saturating_sub(before).saturating_add(after);
        let of_address = *held;
        if of_address == 0 {
            addresses.remove(&address);
            if addresses.is_empty() {
                addresses.shrink_to_fit();
            }
        }
        (self.bytes.get(), of_address)
    }
}

impl Shard {
    /// Takes note that the server, which held `before` bytes for a client, now holds `after`. False if it is too many.
    pub(crate) fn hold(&self, client: IpAddr, before: usize, after: usize) -> bool {
        if before == after {
            return true;
        }
        let is_large = before.max(after) > SMALL_UNFINISHED;
        let address = if is_large { self.handle.0.admission.address(client) } else { None };
        let (held, of_address) = self.held.change(address, before, after);
        self.metrics.unfinished_bytes.set(held as u64);
        if after <= before.max(SMALL_UNFINISHED) {
            return true;
        }
        let most = self.config.max_unfinished_bytes;
        // One message of the largest size fits, with the memory that it grows into.
        let share = (most / ADDRESS_SHARE).max(self.config.max_payload.saturating_mul(2));
        let limit = if held > most {
            Limit::UnfinishedBytes
        } else if of_address > share {
            Limit::UnfinishedBytesPerAddress
        } else {
            return true;
        };
        self.metrics.limit_met(limit);
        false
    }
}

/// Bytes of a client's message that is being handled, or waits for that; given back when dropped.
pub(crate) struct HeldMessage {
    connection: Rc<Connection>,
    bytes: usize,
}

impl HeldMessage {
    /// Nothing if the server holds too much.
    pub(crate) fn new(connection: &Rc<Connection>, bytes: usize) -> Option<Self> {
        let held = Self { connection: connection.clone(), bytes };
        connection.hold_waiting(0, bytes).then_some(held)
    }

    pub(crate) fn of(connection: &Rc<Connection>, event: &Event<'_>) -> Option<Self> {
        let attachments: usize = event.attachments().iter().map(bytes::Bytes::len).sum();
        let args: usize = event.args().map(|arg| arg.get().len() + ARGUMENT_OVERHEAD).sum();
        Self::new(connection, EVENT_OVERHEAD + event.name().len() + args + attachments)
    }
}

/// What an argument takes besides its text.
const ARGUMENT_OVERHEAD: usize = 32;

impl Drop for HeldMessage {
    fn drop(&mut self) {
        self.connection.hold_waiting(self.bytes, 0);
    }
}
