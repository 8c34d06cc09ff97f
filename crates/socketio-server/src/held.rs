//! What peers make a shard hold. Each kind has an account for all, in which each address has a share: bytes of messages that are
//! not whole yet or wait to be handled, bytes that wait for one client alone or may not have arrived, and rooms. A little of each
//! client is not counted for its address, so that everybody is served whatever others hold.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
};

use crate::{
    Config, Event, Limit, Socket,
    address::Address,
    config::{ADDRESS_SHARE, EVENT_OVERHEAD, FEW_ROOMS, SMALL_UNARRIVED, SMALL_UNFINISHED},
    connection::Connection,
    shard::Shard,
};

/// The accounts of a shard.
pub(crate) struct Accounts {
    unfinished: Account,
    unarrived: Account,
    rooms: Account,
}

/// See the module.
struct Account {
    /// What all may hold, and one address.
    most: usize,
    share: usize,
    /// What is not counted for the address: hardly any client holds more.
    small: usize,
    /// What is met when all hold too much, and when one address does.
    limits: [Limit; 2],
    held: Cell<usize>,
    addresses: RefCell<HashMap<Address, usize>>,
}

/// How much is held, for who wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Fine,
    /// More than half of what may be.
    High,
}

impl Accounts {
    pub(crate) fn new(config: &Config) -> Self {
        // What one client may have fits into an address's share: a message of the largest size with the memory that it grows into,
        // what may wait for it, and its rooms.
        let unfinished = (config.max_unfinished_bytes, config.max_payload.saturating_mul(2));
        let unarrived = (config.max_unarrived_bytes, config.outbox_hard_limit);
        let rooms = (config.max_rooms, config.max_rooms_per_socket);
        let account = |(most, least_share): (usize, usize), small, limits| Account {
            most,
            share: (most / ADDRESS_SHARE).max(least_share),
            small,
            limits,
            held: Cell::new(0),
            addresses: RefCell::default(),
        };
        Self {
            unfinished: account(
                unfinished,
                SMALL_UNFINISHED,
                [Limit::UnfinishedBytes, Limit::UnfinishedBytesPerAddress],
            ),
            unarrived: account(unarrived, SMALL_UNARRIVED, [Limit::UnarrivedBytes, Limit::UnarrivedBytesPerAddress]),
            rooms: account(rooms, FEW_ROOMS, [Limit::Rooms, Limit::RoomsPerAddress]),
        }
    }
}

impl Account {
    /// As far as it is counted for an address.
    fn counted(&self, amount: usize) -> usize {
        if amount > self.small { amount } else { 0 }
    }

    /// Whether `after` may be held for one client where `before` is. A trusted proxy's address has no share.
    ///
    /// # Errors
    /// The limit that is met.
    fn check(&self, address: Option<Address>, before: usize, after: usize) -> Result<Level, Limit> {
        if after <= self.small {
            return Ok(Level::Fine);
        }
        let sum = |held: usize, before: usize| held.saturating_sub(before).saturating_add(after);
        let of_address = address.map_or(0, |address| {
            let held = self.addresses.borrow().get(&address).copied().unwrap_or_default();
            sum(held, self.counted(before))
        });
        self.judge(after > before, sum(self.held.get(), before), of_address)
    }

    /// Whether so much may be held for all and for one address, if it is `more` than before.
    fn judge(&self, more: bool, all: usize, of_address: usize) -> Result<Level, Limit> {
        let [limit_of_all, limit_of_address] = self.limits;
        if more && all > self.most {
            Err(limit_of_all)
        } else if more && of_address > self.share {
            Err(limit_of_address)
        } else if all > self.most / 2 || of_address > self.share / 2 {
            Ok(Level::High)
        } else {
            Ok(Level::Fine)
        }
    }

    /// Takes note that `after` is held for one client where `before` was. Returns what [`Account::check`] would have.
    fn set(&self, address: Option<Address>, before: usize, after: usize) -> Result<Level, Limit> {
        let all = self.held.get().saturating_sub(before).saturating_add(after);
        self.held.set(all);
        let of_address =
            address.map_or(0, |address| self.set_of_address(address, self.counted(before), self.counted(after)));
        if after <= self.small { Ok(Level::Fine) } else { self.judge(after > before, all, of_address) }
    }

    /// The same of an address alone. Returns what it holds now.
    fn set_of_address(&self, address: Address, before: usize, after: usize) -> usize {
        let mut addresses = self.addresses.borrow_mut();
        let held = addresses.entry(address).or_default();
        *held = held.saturating_sub(before).saturating_add(after);
        let now = *held;
        if now == 0 {
            addresses.remove(&address);
            if addresses.is_empty() {
                addresses.shrink_to_fit();
            }
        }
        now
    }

    /// The address, if the account needs it for so much.
    fn address(&self, shard: &Shard, client: IpAddr, before: usize, after: usize) -> Option<Address> {
        if before.max(after) > self.small { shard.handle.0.admission.address(client) } else { None }
    }
}

impl Shard {
    /// Takes note that the server, which held `before` bytes of what a client sends, now holds `after`. False if it is too many.
    pub(crate) fn hold(&self, client: IpAddr, before: usize, after: usize) -> bool {
        let account = &self.held.unfinished;
        let level = self.change(account, client, before, after);
        self.metrics.unfinished_bytes.set(account.held.get() as u64);
        level.is_some()
    }

    /// The same of what waits for a client alone, or may not have arrived. None if it is too much.
    pub(crate) fn hold_unarrived(&self, client: IpAddr, before: usize, after: usize) -> Option<Level> {
        let account = &self.held.unarrived;
        let level = self.change(account, client, before, after);
        self.metrics.unarrived_bytes.set(account.held.get() as u64);
        level
    }

    fn change(&self, account: &Account, client: IpAddr, before: usize, after: usize) -> Option<Level> {
        if before == after {
            return Some(Level::Fine);
        }
        let address = account.address(self, client, before, after);
        let level = account.set(address, before, after);
        level.inspect_err(|limit| self.metrics.limit_met(*limit)).ok()
    }

    /// Whether much waits for the clients of this address, or for all, so that more is to wait for less.
    pub(crate) fn is_crowded(&self, client: IpAddr) -> bool {
        let more = SMALL_UNARRIVED + 1;
        let address = self.handle.0.admission.address(client);
        self.held.unarrived.check(address, 0, more) != Ok(Level::Fine)
    }

    /// Whether a socket may be in so many rooms more.
    pub(crate) fn may_join(&self, socket: &Socket, before: usize, after: usize) -> bool {
        let account = &self.held.rooms;
        let address = account.address(self, socket.inner().connection.client, before, after);
        let level = account.check(address, before, after);
        level.inspect_err(|limit| self.metrics.limit_met(*limit)).is_ok()
    }

    /// Takes note that a socket, which was in `before` rooms, now is in `after`.
    pub(crate) fn count_rooms(&self, socket: &Socket, before: usize, after: usize) {
        let account = &self.held.rooms;
        let address = account.address(self, socket.inner().connection.client, before, after);
        // Who asked whether it may has an answer already.
        let _ = account.set(address, before, after);
        self.metrics.room_memberships.set(account.held.get() as u64);
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
