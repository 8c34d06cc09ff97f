//! A client of its own thread that pings in even intervals, so that what the other connections get can't hold up its
//! clock.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use rustix::process::setpriority_process;
use socketio_protocol::websocket::{OpCode, encode_masked};

use crate::frame;
use crate::http;
use crate::message::{Message, classify};

/// Between two pings. No multiple of anything that a server does in even intervals.
const INTERVAL: Duration = Duration::from_micros(4_700);

/// The thread's nice value.
const FIRST: i32 = -15;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running pinger.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Duration>>>>,
}

impl Pinger {
    /// Connects and begins to ping.
    ///
    /// # Errors
    /// If it can't connect.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let mut client = Client::connect(server)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // A clock that waits for a processor shows how busy the load generator is. Without the right to go first it
            // goes like any other.
            let _ = setpriority_process(None, FIRST);
            client.ping_until(&stopped)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it. Returns how long each answer took.
    ///
    /// # Errors
    /// If an answer did not come.
    pub fn stop(mut self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { bail!("stopped twice") };
        thread.join().map_err(|_panic| anyhow!("the pinger panicked"))?
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    fn connect(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, input: Vec::new() };
        client.stream.write_all(http::UPGRADE)?;
        let deadline = Instant::now() + PATIENCE;
        let upgraded = loop {
            if let Some(response) = http::response(&client.input)? {
                break response.len;
            }
            client.read(deadline)?;
        };
        client.input.drain(..upgraded);
        client.send(b"40")?;
        let mut welcomed = false;
        while !welcomed {
            if !client.read(deadline)? {
                bail!("the pinger got no welcome");
            }
            client.take(|message| welcomed |= *message == Message::Welcome)?;
        }
        Ok(client)
    }

    /// Each ping goes out when it is due, whether those before it were answered or not: else the times when the server
    /// answers nobody would count once, instead of once for each ping that they delay.
    fn ping_until(&mut self, stop: &AtomicBool) -> Result<Vec<Duration>> {
        let (mut latencies, mut waiting, mut pongs) = (Vec::new(), VecDeque::new(), 0);
        let mut next_id = 0u32;
        let mut due = Instant::now();
        let mut patience = None;
        loop {
            let now = Instant::now();
            if stop.load(Ordering::Relaxed) {
                // No more pings, and time for the answers.
                due = *patience.get_or_insert(now + PATIENCE);
                if waiting.is_empty() && pongs == latencies.len() {
                    return Ok(latencies);
                }
                if now >= due {
                    bail!("{} pings were not answered", waiting.len());
                }
            } else if now >= due {
                self.send(format!(r#"42{next_id}["ping"]"#).as_bytes())?;
                waiting.push_back((next_id, Instant::now()));
                next_id = next_id.wrapping_add(1);
                due = (due + INTERVAL).max(now);
            }
            if !self.read(due)? {
                continue;
            }
            let at = Instant::now();
            let mut stray = false;
            self.take(|message| match message {
                Message::Pong => pongs += 1,
                Message::Ack(id, _) => match waiting.pop_front() {
                    Some((expected, sent_at)) if expected == *id => latencies.push(at - sent_at),
                    _ => stray = true,
                },
                _ => {}
            })?;
            if stray {
                bail!("an ack out of order");
            }
        }
    }

    fn send(&mut self, text: &[u8]) -> Result<()> {
        let mut frame = Vec::new();
        encode_masked(&mut frame, OpCode::Text, text, [1, 2, 3, 4]);
        Ok(self.stream.write_all(&frame)?)
    }

    /// Whether something arrived before the deadline.
    fn read(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed the pinger's connection"),
            Ok(len) => self.input.extend_from_slice(&buffer[..len]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn take(&mut self, mut f: impl FnMut(&Message<'_>)) -> Result<()> {
        let (mut taken, mut heartbeat) = (0, false);
        while let Some(frame) = frame::next(&self.input[taken..])? {
            taken += frame.len;
            if frame.opcode == frame::TEXT {
                let message = classify(frame.payload);
                heartbeat |= message == Message::Ping;
                f(&message);
            }
        }
        self.input.drain(..taken);
        if heartbeat { self.send(b"3") } else { Ok(()) }
    }
}
