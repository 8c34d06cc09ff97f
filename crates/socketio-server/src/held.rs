//! What peers make a shard hold. Each kind has an account for all, in which each address has a share: bytes of messages that are
//! not whole yet or wait to be handled, bytes that wait for clients or may not have arrived, and places in rooms. Little that
//! a client has is its own, whatever others hold.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
};

use crate::{
    Config, Event, Limit, Socket,
    address::Address,
    config::{ADDRESS_SHARE, EVENT_OVERHEAD, FEW_ROOMS, SMALL_OUTGOING, SMALL_UNFINISHED},
    connection::Connection,
    shard::Shard,
};

/// The accounts of a shard.
pub(crate) struct Accounts {
    incoming: Account,
    outgoing: Account,
    rooms: Account,
}

/// See the module.
struct Account {
    /// What all may hold, and one address.
    most: usize,
    share: usize,
    /// What is not counted for the address: hardly any client holds more.
    small: usize,
    limits: Limits,
    held: Cell<usize>,
    addresses: RefCell<HashMap<Address, usize>>,
}

/// What is met when all hold too much, and when one address does.
type Limits = [Limit; 2];

/// How much is held, for who wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Fine,
    /// More than half of what may be.
    High,
}

impl Accounts {
    pub(crate) fn new(config: &Config) -> Self {
        // One message of the largest size fits, with the memory that it grows into, and what may wait for one client.
        let least_incoming = config.max_payload.saturating_mul(2);
        let least_outgoing = config.outbox_hard_limit;
        let incoming = [Limit::UnfinishedBytes, Limit::UnfinishedBytesPerAddress];
        let outgoing = [Limit::OutboxBytes, Limit::OutboxBytesPerAddress];
        let rooms = [Limit::Rooms, Limit::RoomsPerAddress];
        Self {
            incoming: Account::new(config.max_unfinished_bytes, least_incoming, SMALL_UNFINISHED, incoming),
            outgoing: Account::new(config.max_outbox_bytes, least_outgoing, SMALL_OUTGOING, outgoing),
            rooms: Account::new(config.max_rooms, 0, FEW_ROOMS, rooms),
        }
    }
}

impl Account {
    fn new(most: usize, least_share: usize, small: usize, limits: Limits) -> Self {
        let share = (most / ADDRESS_SHARE).max(least_share);
        Self { most, share, small, limits, held: Cell::new(0), addresses: RefCell::default() }
    }

    /// Takes note that `after` is held for one client where `before` was. A trusted proxy's address has no share.
    ///
    /// # Errors
    /// What limit it is past, if it is more than before.
    fn change(&self, address: impl FnOnce() -> Option<Address>, before: usize, after: usize) -> Result<Level, Limit> {
        self.held.set(self.held.get().saturating_sub(before).saturating_add(after));
        let counted = |amount: usize| if amount > self.small { amount } else { 0 };
        let (before, after) = (counted(before), counted(after));
        if (before, after) == (0, 0) {
            return Ok(Level::Fine);
        }
        let of_address = address().map_or(0, |address| self.change_address(address, before, after));
        let [all, own] = self.limits;
        let held = self.held.get();
        match after > before {
            _ if after == 0 => Ok(Level::Fine),
            true if held > self.most => Err(all),
            true if of_address > self.share => Err(own),
            _ if held > self.most / 2 || of_address > self.share / 2 => Ok(Level::High),
            _ => Ok(Level::Fine),
        }
    }

    fn change_address(&self, address: Address, before: usize, after: usize) -> usize {
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
        of_address
    }
}

impl Shard {
    /// Takes note that the server, which held `before` bytes of what a client sends, now holds `after`. False if it is too many.
    pub(crate) fn hold(&self, client: IpAddr, before: usize, after: usize) -> bool {
        let level = self.change(&self.held.incoming, client, before, after);
        self.metrics.unfinished_bytes.set(self.held.incoming.held.get() as u64);
        level.inspect_err(|limit| self.metrics.limit_met(*limit)).is_ok()
    }

    /// The same of what waits for a client, or may not have arrived. None if it is too much.
    pub(crate) fn hold_outgoing(&self, client: IpAddr, before: usize, after: usize) -> Option<Level> {
        let level = self.change(&self.held.outgoing, client, before, after);
        self.metrics.unarrived_bytes.set(self.held.outgoing.held.get() as u64);
        level.inspect_err(|limit| self.metrics.limit_met(*limit)).ok()
    }

    /// The same of the rooms of one of a client's sockets.
    ///
    /// # Errors
    /// If they are too many: what limit they are past, if it is for the application to be in the way.
    pub(crate) fn hold_rooms(&self, socket: &Socket, before: usize, after: usize) -> Result<(), Limit> {
        let level = self.change(&self.held.rooms, socket.inner().connection.client, before, after);
        self.metrics.room_memberships.set(self.held.rooms.held.get() as u64);
        level.map(|_level| ())
    }

    fn change(&self, account: &Account, client: IpAddr, before: usize, after: usize) -> Result<Level, Limit> {
        if before == after {
            return Ok(Level::Fine);
        }
        account.change(|| self.handle.0.admission.address(client), before, after)
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
