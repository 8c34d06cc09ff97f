//! A publisher that waits for each of its answers.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::{self, Response};
use crate::message::Message;
use crate::net::{ConnId, Idle, Load, Net, Plan, TICK, room_name};

/// An HTTP connection to a node.
#[derive(Debug)]
pub(super) struct Publisher {
    net: Net,
    conn: ConnId,
}

impl Publisher {
    pub(super) fn connect(node: SocketAddr, limit: Duration) -> Result<Self> {
        let mut net = Net::new(node, Instant::now() + limit)?;
        let (conns, _) = net.connect_all([Plan::Http], 1)?;
        Ok(Self { conn: *conns.first().context("a connection")?, net })
    }

    /// Publishes an event to each of the first rooms, one after the other.
    pub(super) fn publish_to_each(&mut self, rooms: u16, payload: &[u8]) -> Result<()> {
        for room in 0..rooms {
            let mut request = Vec::new();
            http::write_publish(&mut request, &room_name(room), payload, false);
            self.send(&request)?;
        }
        Ok(())
    }

    /// Publishes an event to each of these rooms, in batches. Only ours takes them.
    pub(super) fn publish_in_batches(&mut self, rooms: Range<u16>, payload: &[u8]) -> Result<()> {
        const ITEMS: usize = 100;
        let rooms: Vec<u16> = rooms.collect();
        for rooms in rooms.chunks(ITEMS) {
            let (mut items, mut request) = (Vec::new(), Vec::new());
            rooms.iter().for_each(|&room| http::write_batch_item(&mut items, &room_name(room), payload, false));
            http::write_batch(&mut request, &items);
            self.send(&request)?;
        }
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Result<()> {
        struct Accepted(bool);
        impl Load for Accepted {
            fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
                Idle.message(conn, message, at)
            }
            fn response(&mut self, _conn: ConnId, response: &Response<'_>) -> Result<()> {
                if response.status != 200 {
                    bail!("status {} for a publish: {}", response.status, String::from_utf8_lossy(response.body));
                }
                self.0 = true;
                Ok(())
            }
        }
        self.net.send_raw(self.conn, request)?;
        let mut accepted = Accepted(false);
        while !accepted.0 {
            self.net.turn(&mut accepted, TICK)?;
        }
        Ok(())
    }
}
