//! The resources that a shard holds for its peers. There is an account for each kind: bytes of messages that are
//! incomplete or wait for handling, bytes that wait for one client alone or may not have arrived, and rooms. An account
//! covers all clients, and each address has a share of it. A small amount of each client is not counted for its
//! address, so that every client is served, regardless of the amounts of others.

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

/// One account; see the module.
struct Account {
    /// The most that all clients may hold together, and the most for one address.
    most: usize,
    share: usize,
    /// The largest amount of a client that is not counted for its address. Hardly any client holds more.
    small: usize,
    /// The limit that is met when all clients hold too much, and the limit that is met when one address does.
    limits: [Limit; 2],
    held: Cell<usize>,
    addresses: RefCell<HashMap<Address, usize>>,
}

/// How much is held, for a caller that asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Fine,
    /// More than half of the limit.
    High,
}

impl Accounts {
    pub(crate) fn new(config: &Config) -> Self {
        // An address's share has room for the most that one client may hold: a message of the largest size with the
        // memory that it grows into, the bytes that wait for the client, and its rooms.
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
    /// The part of `amount` that is counted for an address.
    fn counted(&self, amount: usize) -> usize {
        if amount > self.small { amount } else { 0 }
    }

    /// Checks whether one client may hold `after` instead of `before`. A trusted proxy's address has no share.
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

    /// Checks the amounts of all clients and of one address. An exceeded limit is an error only if the client holds
    /// `more` than before.
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

    /// Records a change of one client's amount from `before` to `after`. Returns the result that [`Account::check`]
    /// would return.
    fn set(&self, address: Option<Address>, before: usize, after: usize) -> Result<Level, Limit> {
        let all = self.held.get().saturating_sub(before).saturating_add(after);
        self.held.set(all);
        let of_address =
            address.map_or(0, |address| self.set_of_address(address, self.counted(before), self.counted(after)));
        if after <= self.small { Ok(Level::Fine) } else { self.judge(after > before, all, of_address) }
    }

    /// Records such a change for an address alone. Returns the address's new amount.
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

    /// The client's address, if the account needs it for these amounts.
    fn address(&self, shard: &Shard, client: IpAddr, before: usize, after: usize) -> Option<Address> {
        if before.max(after) > self.small { shard.handle.0.admission.address(client) } else { None }
    }
}

impl Shard {
    /// Records a change in the held bytes of a client's messages from `before` to `after`. Returns `false` if they are
    /// too many.
    pub(crate) fn hold(&self, client: IpAddr, before: usize, after: usize) -> bool {
        let account = &self.held.unfinished;
        let level = self.change(account, client, before, after);
        self.metrics.unfinished_bytes.set(account.held.get() as u64);
        level.is_some()
    }

    /// Records such a change for the bytes that wait for a client alone or may not have arrived. Returns `None` if they
    /// are too many.
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

    /// Whether many bytes wait for the clients of this address, or for all clients. Further output is then delayed
    /// until fewer bytes wait.
    pub(crate) fn is_crowded(&self, client: IpAddr) -> bool {
        let more = SMALL_UNARRIVED + 1;
        let address = self.handle.0.admission.address(client);
        self.held.unarrived.check(address, 0, more) != Ok(Level::Fine)
    }

    /// Whether a socket may be in `after` rooms instead of `before`.
    pub(crate) fn may_join(&self, socket: &Socket, before: usize, after: usize) -> bool {
        let account = &self.held.rooms;
        let address = account.address(self, socket.inner().connection.client, before, after);
        let level = account.check(address, before, after);
        level.inspect_err(|limit| self.metrics.limit_met(*limit)).is_ok()
    }

    /// Records a change of a socket's number of rooms from `before` to `after`.
    pub(crate) fn count_rooms(&self, socket: &Socket, before: usize, after: usize) {
        let account = &self.held.rooms;
        let address = account.address(self, socket.inner().connection.client, before, after);
        // A caller that needs permission has already asked for it with `may_join`.
        let _ = account.set(address, before, after);
        self.metrics.room_memberships.set(account.held.get() as u64);
    }
}

/// Bytes of a client's message that is being handled or waits for its handler. They are released on drop.
pub(crate) struct HeldMessage {
    connection: Rc<Connection>,
    bytes: usize,
}

impl HeldMessage {
    /// Returns `None` if the server holds too much.
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

/// Bytes of an argument in addition to its text.
const ARGUMENT_OVERHEAD: usize = 32;

impl Drop for HeldMessage {
    fn drop(&mut self) {
        self.connection.hold_waiting(self.bytes, 0);
    }
}
