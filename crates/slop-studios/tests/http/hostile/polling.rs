//! A client by long polling that reads all the time.

use super::peer::{HANDSHAKE, Peer, session};
use super::victim::Victim;

pub(crate) struct Polling {
    target: String,
    posts: Peer,
    polls: Peer,
}

impl Polling {
    /// One that is in the default namespace.
    pub(crate) async fn client(victim: &Victim) -> Self {
        let target = format!("{HANDSHAKE}&sid={}", session(victim).await);
        let mut client = Self { target, posts: Peer::connect(victim).await, polls: Peer::connect(victim).await };
        assert_eq!(client.post("40").await, 200);
        client.until(|packet| packet.starts_with("42[\"welcome\"")).await;
        client
    }

    /// The status of the answer; 0 if the connection ends instead.
    pub(crate) async fn post(&mut self, body: &str) -> u16 {
        self.posts.request("POST", &self.target, "", body.as_bytes()).await;
        self.posts.answer().await.map_or(0, |answer| answer.status)
    }

    /// Posts a body and waits for nothing.
    pub(crate) async fn begin_post(&mut self, body: &str) {
        self.posts.request("POST", &self.target, "", body.as_bytes()).await;
    }

    /// What has come; none once the session has ended.
    async fn poll(&mut self) -> Option<Vec<String>> {
        self.polls.request("GET", &self.target, "", b"").await;
        let answer = self.polls.answer().await.filter(|answer| answer.status == 200)?;
        Some(answer.body.split('\x1e').map(str::to_owned).collect())
    }

    /// Ends the session, if it has not ended.
    pub(crate) async fn leave(mut self) {
        self.post("1").await;
    }

    /// Reads until a packet is meant.
    pub(crate) async fn until(&mut self, mut is_meant: impl FnMut(&str) -> bool) {
        loop {
            let packets = self.poll().await.expect("the session goes on");
            if packets.iter().any(|packet| is_meant(packet)) {
                return;
            }
        }
    }

    /// Posts a body, and reads meanwhile until the last packet or the session's end.
    pub(crate) async fn exchange(&mut self, body: &str, mut is_last: impl FnMut(&str) -> bool) -> Vec<String> {
        let Self { target, posts, polls } = self;
        let post = async {
            posts.request("POST", target, "", body.as_bytes()).await;
            posts.answer().await
        };
        let read = async {
            let mut packets = Vec::new();
            loop {
                polls.request("GET", target, "", b"").await;
                let Some(answer) = polls.answer().await.filter(|answer| answer.status == 200) else { return packets };
                let mut over = false;
                for packet in answer.body.split('\x1e') {
                    over |= is_last(packet) || packet == "1";
                    packets.push(packet.to_owned());
                }
                if over {
                    return packets;
                }
            }
        };
        tokio::join!(post, read).1
    }
}
