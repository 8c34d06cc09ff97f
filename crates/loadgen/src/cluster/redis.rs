//! A Redis server for one measurement, and the few commands that the measurements need of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use crate::server::{START, launch, lines_of};

/// When Redis writes its log of changes (AOF) to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// There is no AOF.
    NoAof,
    /// Once a second.
    EverySecond,
    /// Before each answer.
    Always,
}

impl Fsync {
    /// The value of `appendfsync`, and of `REDIS_DURABILITY`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAof => "none",
            Self::EverySecond => "everysec",
            Self::Always => "always",
        }
    }
}

/// A reply of Redis.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A text, as one line or in bulk.
    Text(String),
    /// A number.
    Number(i64),
    /// No value.
    Nil,
    /// Several replies.
    List(Vec<Reply>),
}

impl Reply {
    /// The number; an error if it is none.
    fn number(&self) -> Result<i64> {
        if let Self::Number(number) = self { Ok(*number) } else { bail!("{self:?} is no number") }
    }
}

/// What the commands of a Redis have cost: calls and microseconds, by command.
pub type Commands = BTreeMap<String, (u64, u64)>;

/// A running Redis; it ends with this value.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    address: SocketAddr,
    connection: BufReader<TcpStream>,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// Starts a Redis without data on a free port.
    ///
    /// # Errors
    /// If it does not say that it is ready.
    pub fn start(launcher: &Path, fsync: Fsync) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // The port may be taken by another process before Redis binds it: then the start fails, and the run is repeated.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let settings = folder.path().join("redis.conf");
        let aof = match fsync {
            Fsync::NoAof => "appendonly no".to_owned(),
            _ => format!("appendonly yes\nappendfsync {}", fsync.name()),
        };
        // A rewrite of the AOF is the work of another process, at a time that no server chooses.
        let text = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsave \"\"\n{aof}\nauto-aof-rewrite-percentage 0\n",
            folder.path().display()
        );
        std::fs::write(&settings, text)?;
        let mut command = launch(launcher, &[program.into(), settings]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = lines_of(&mut child);
        let mut last = String::new();
        while !last.contains("Ready to accept connections") {
            match lines.recv_timeout(START) {
                Ok(line) => last = line,
                Err(_) => {
                    // It may have ended by itself.
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("redis-server does not start: {last}");
                }
            }
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connection = BufReader::new(TcpStream::connect(address)?);
        Ok(Self { child, address, connection, _folder: folder })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// As a setting of a server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Has it carry out a command.
    ///
    /// # Errors
    /// If the connection fails, or the reply is an error.
    pub fn command(&mut self, words: &[&str]) -> Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.connection.get_mut().write_all(request.as_bytes())?;
        read_reply(&mut self.connection)
    }

    /// A command whose reply is a number.
    ///
    /// # Errors
    /// If it is something else.
    pub fn number(&mut self, words: &[&str]) -> Result<i64> {
        self.command(words)?.number().with_context(|| words.join(" "))
    }

    fn info(&mut self, section: &str) -> Result<String> {
        match self.command(&["INFO", section])? {
            Reply::Text(text) => Ok(text),
            other => bail!("INFO was answered with {other:?}"),
        }
    }

    /// What each command has cost since the start.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn commands(&mut self) -> Result<Commands> {
        Ok(parse_commands(&self.info("commandstats")?))
    }

    /// Bytes that it uses for data and for subscriptions, without buffers of connections and of the AOF.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn memory(&mut self) -> Result<u64> {
        let info = self.info("memory")?;
        let field = |name: &str| parse_field(&info, name).with_context(|| format!("INFO has no {name}"));
        let buffers = field("mem_clients_normal")? + field("mem_aof_buffer")?;
        Ok(field("used_memory")?.saturating_sub(buffers))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_reply(input: &mut impl BufRead) -> Result<Reply> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let line = line.strip_suffix("\r\n").context("Redis closed the connection")?;
    let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
    Ok(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => bail!("Redis: {rest}"),
        ":" => Reply::Number(rest.parse()?),
        "$" if rest == "-1" => Reply::Nil,
        "$" => {
            let mut text = vec![0; rest.parse::<usize>()? + 2];
            input.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            Reply::Text(String::from_utf8_lossy(&text).into_owned())
        }
        "*" => {
            let mut replies = Vec::new();
            for _ in 0..rest.parse::<i64>()? {
                replies.push(read_reply(input)?);
            }
            Reply::List(replies)
        }
        _ => bail!("a reply of an unknown kind: {line}"),
    })
}

/// The value of the line `name:value`.
fn parse_field(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

/// Lines as `cmdstat_get:calls=1,usec=2,usec_per_call=2.00,…`.
fn parse_commands(info: &str) -> Commands {
    let parse = |line: &str| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let figure =
            |name: &str| figures.split(',').find_map(|it| it.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        Some((name.to_owned(), (figure("calls")?, figure("usec")?)))
    };
    info.lines().filter_map(parse).collect()
}

/// What was added to the commands' cost between two readings.
#[must_use]
pub fn difference(before: &Commands, after: &Commands) -> Commands {
    let since = |(name, &(calls, micros)): (&String, &(u64, u64))| {
        let (calls_before, micros_before) = before.get(name).copied().unwrap_or_default();
        (name.clone(), (calls - calls_before, micros - micros_before))
    };
    after.iter().map(since).filter(|(_, (calls, _))| *calls > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_kind_are_read() {
        let mut input: &[u8] = b"*4\r\n+OK\r\n:-3\r\n$4\r\na\r\nb\r\n$-1\r\n-ERR no\r\n";
        let list = [Reply::Text("OK".to_owned()), Reply::Number(-3), Reply::Text("a\r\nb".to_owned()), Reply::Nil];
        assert_eq!(read_reply(&mut input).unwrap(), Reply::List(list.into()));
        assert!(read_reply(&mut input).unwrap_err().to_string().contains("ERR no"));
        assert!(read_reply(&mut input).is_err());
    }

    #[test]
    fn costs_of_commands_are_differences() {
        let before =
            parse_commands("# Commandstats\r\ncmdstat_get:calls=2,usec=5,usec_per_call=2.5,rejected_calls=0\r\n");
        let after = parse_commands(
            "cmdstat_get:calls=5,usec=11,usec_per_call=2\r\ncmdstat_config|get:calls=1,usec=7,usec_per_call=7\r\n",
        );
        let expected = [("config|get".to_owned(), (1, 7)), ("get".to_owned(), (3, 6))];
        assert_eq!(difference(&before, &after), expected.into());
        assert_eq!(difference(&after, &after), Commands::new());
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = "used_memory_human:1M\r\nused_memory:1024\r\n";
        assert_eq!(parse_field(info, "used_memory"), Some(1024));
        assert_eq!(parse_field(info, "used"), None);
    }
}
