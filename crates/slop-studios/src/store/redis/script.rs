//! The function `apply.lua`, with its limits and its arguments.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use redis::Cmd;

use super::super::{Bounds, Room};
use super::operation::{Operation, hex};
use crate::contract::rooms::USER_PREFIX;
use crate::contract::time::Moment;
use crate::limits::{BATCH_ITEMS_PER_KEY, INBOX_BATCH_BYTES, MAX_NOTIFICATIONS_PAGE_BYTES, MAX_REPLAY_BYTES};

/// The most events that the log of a room has.
const ROOM_LOG_EVENTS: u64 = 2_000;

/// The function, for one node and one term.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    name: String,
    limits: String,
    prefix: String,
    epoch: String,
    node: String,
    channel: String,
    /// The tag of the node in the ids of its sockets, and the address at which other nodes reach it.
    tag: u32,
    address: String,
}

impl Script {
    pub(super) fn new(
        prefix: &str,
        epoch: String,
        node: &str,
        (tag, address): (u32, &str),
        (bounds, away): (&Bounds, Duration),
    ) -> Self {
        let ms = |duration: Duration| duration.as_millis() as u64;
        let limits = [
            ms(bounds.media.age),
            bounds.media.rows,
            ms(bounds.notifications.age),
            bounds.notifications_per_user as u64,
            ms(bounds.log.age),
            ROOM_LOG_EVENTS,
            ms(bounds.idempotency_keys.age),
            bounds.idempotency_keys.of_all,
            bounds.idempotency_keys.of_publisher,
            ms(bounds.sessions.age),
            MAX_NOTIFICATIONS_PAGE_BYTES as u64,
            INBOX_BATCH_BYTES as u64,
            MAX_REPLAY_BYTES as u64,
            BATCH_ITEMS_PER_KEY as u64,
            ms(away),
        ];
        let text = include_str!("apply.lua").replace("{user}", &format!("'{USER_PREFIX}'"));
        // Another version has another name, so that nodes of both can run.
        let name = format!("slop_{}", &hex(digest(&SHA256, text.as_bytes()).as_ref())[..16]);
        Self {
            text: text.replace("{name}", &name),
            name,
            limits: limits.map(|limit| limit.to_string()).join(" "),
            prefix: prefix.to_owned(),
            epoch,
            node: node.to_owned(),
            channel: format!("{prefix}to:{node}"),
            tag,
            address: address.to_owned(),
        }
    }

    /// The channel on which the node hears its marks.
    pub(super) fn own_channel(&self) -> &str {
        &self.channel
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The channel on which the node hears the events for the ids of its sockets.
    pub(super) fn sockets_channel(&self) -> String {
        format!("{}sockets:{}", self.prefix, self.tag)
    }

    /// The log of the events for the ids of the node's sockets, as if it were a room.
    pub(super) fn sockets_room(&self) -> Room {
        Room { namespace: "sockets", room: self.tag.to_string().into() }
    }

    /// The channel on which all nodes hear of a new one.
    pub(super) fn nodes_channel(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    /// The operation that renews the node's lease. `rules` is the digest of its rules.
    pub(super) fn renew(&self, rules: &str) -> Operation {
        Operation::new("renew").number(self.tag.into()).text(&self.address).text(rules)
    }

    /// The channel on which all nodes hear changes of the revocations.
    pub(super) fn revocations_channel(&self) -> String {
        format!("{}revocations", self.prefix)
    }

    /// The channel of a room.
    pub(super) fn channel_of(&self, Room { namespace, room }: &Room) -> String {
        format!("{}room:{namespace}:{room}", self.prefix)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Continues in another term.
    pub(super) fn set_epoch(&mut self, epoch: String) {
        self.epoch = epoch;
    }

    /// The command that carries out a batch.
    pub(super) fn command(&self, number: u64, operations: &[Operation]) -> Cmd {
        let mut command = redis::cmd("FCALL");
        let is_published = operations.iter().any(Operation::is_published);
        let name = if is_published { self.name.clone() } else { format!("{}_full", self.name) };
        command.arg(name).arg(0).arg(&self.prefix).arg(&self.epoch).arg(&self.node).arg(number);
        command.arg(Moment::now().epoch_ms()).arg(&self.limits).arg(operations.len());
        for operation in operations {
            let (name, arguments) = operation.head();
            command.arg(name).arg(arguments);
            for part in operation.parts() {
                command.arg(part);
            }
        }
        command
    }
}
