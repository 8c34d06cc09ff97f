//! A client of its own thread that pings in even intervals, so that what the other connections get can't hold up its
//! clock. When an answer arrived, the system tells: a thread that waits for a processor would see it later.

use std::collections::VecDeque;
use std::io::{IoSliceMut, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
            // Pings should go out when they are due. Without the right to go first they go when they can.
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
        setsockopt(&stream, sockopt::ReceiveTimestampns, &true)?;
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
            if client.read(deadline)?.is_none() {
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
                waiting.push_back((next_id, wall_clock()?));
                self.send(format!(r#"42{next_id}["ping"]"#).as_bytes())?;
                next_id = next_id.wrapping_add(1);
                due = (due + INTERVAL).max(now);
            }
            let Some(at) = self.read(due)? else { continue };
            let mut stray = false;
            self.take(|message| match message {
                Message::Pong => pongs += 1,
                Message::Ack(id, _) => match waiting.pop_front() {
                    Some((expected, sent_at)) if expected == *id => latencies.push((at - sent_at).into()),
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

    /// When what it read arrived, by the system's clock; none if nothing did before the deadline.
    fn read(&mut self, deadline: Instant) -> Result<Option<TimeSpec>> {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        // Not the socket's own timeout, which the kernel rounds to its ticks of milliseconds.
        if poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&left))? == 0 {
            return Ok(None);
        }
        let (mut buffer, mut control) = ([0; 4096], cmsg_space!(TimeSpec));
        let mut pieces = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(self.stream.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::empty())?;
        let (len, at) = (message.bytes, message.cmsgs()?.find_map(arrival));
        if len == 0 {
            bail!("the server closed the pinger's connection");
        }
        self.input.extend_from_slice(&buffer[..len]);
        // The kernel begins to take the time soon after the first socket has asked for it.
        at.map_or_else(wall_clock, Ok).map(Some)
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

/// By the clock that the kernel's times of arrival are of.
fn wall_clock() -> Result<TimeSpec> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?)
}

fn arrival(message: ControlMessageOwned) -> Option<TimeSpec> {
    if let ControlMessageOwned::ScmTimestampns(at) = message { Some(at) } else { None }
}
