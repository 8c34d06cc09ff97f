//! As much of `socket.io-msgpack-parser` as it takes to tell its clients that they are not understood.
//!
//! Such a client sends every packet as one binary message, a MessagePack map of `type`, `nsp`, `data` and `id`, and
//! reads nothing else.

/// The namespace that a client with this parser wants to connect to, if the message is its CONNECT.
#[must_use]
pub fn connect_namespace(message: &[u8]) -> Option<&str> {
    let mut reader = Reader(message);
    let members = match reader.byte()? {
        map @ 0x80..=0x8f => usize::from(map & 0x0f),
        _ => return None,
    };
    let (mut is_connect, mut namespace) = (false, None);
    for _ in 0..members {
        match reader.string()? {
            "type" => is_connect = reader.byte()? == 0,
            "nsp" => namespace = Some(reader.string()?),
            _ => reader.skip()?,
        }
    }
    namespace.filter(|_| is_connect && reader.0.is_empty())
}

/// Appends a CONNECT_ERROR as this parser writes it.
pub fn encode_connect_error(out: &mut Vec<u8>, namespace: &str, message: &str) {
    const CONNECT_ERROR: u8 = 4;
    out.push(0x83);
    write_string(out, "type");
    out.push(CONNECT_ERROR);
    write_string(out, "nsp");
    write_string(out, namespace);
    write_string(out, "data");
    out.push(0x81);
    write_string(out, "message");
    write_string(out, message);
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    let length = text.len().to_be_bytes();
    match text.len() {
        0..=31 => out.push(0xa0 | length[7]),
        32..=0xff => out.extend([0xd9, length[7]]),
        0x100..=0xffff => out.extend([0xda, length[6], length[7]]),
        _ => out.extend([0xdb, length[4], length[5], length[6], length[7]]),
    }
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A number of so many bytes.
    fn length(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn string(&mut self) -> Option<&'a str> {
        let length = match self.byte()? {
            short @ 0xa0..=0xbf => usize::from(short & 0x1f),
            0xd9 => self.length(1)?,
            0xda => self.length(2)?,
            0xdb => self.length(4)?,
            _ => return None,
        };
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// Passes one value over, with all that is in it.
    fn skip(&mut self) -> Option<()> {
        let mut values = 1usize;
        while values > 0 {
            values -= 1;
            let (bytes, members) = match self.byte()? {
                0x00..=0x7f | 0xc0..=0xc3 | 0xe0..=0xff => (0, 0),
                map @ 0x80..=0x8f => (0, 2 * usize::from(map & 0x0f)),
                array @ 0x90..=0x9f => (0, usize::from(array & 0x0f)),
                string @ 0xa0..=0xbf => (usize::from(string & 0x1f), 0),
                0xc4 | 0xd9 => (self.length(1)?, 0),
                0xc5 | 0xda => (self.length(2)?, 0),
                0xc6 | 0xdb => (self.length(4)?, 0),
                // Extensions: their type, and their data.
                0xc7 => (1 + self.length(1)?, 0),
                0xc8 => (1 + self.length(2)?, 0),
                0xc9 => (1 + self.length(4)?, 0),
                0xcc | 0xd0 => (1, 0),
                0xcd | 0xd1 | 0xd4 => (2, 0),
                0xd5 => (3, 0),
                0xca | 0xce | 0xd2 => (4, 0),
                0xd6 => (5, 0),
                0xcb | 0xcf | 0xd3 => (8, 0),
                0xd7 => (9, 0),
                0xd8 => (17, 0),
                0xdc => (0, self.length(2)?),
                0xdd => (0, self.length(4)?),
                0xde => (0, self.length(2)?.saturating_mul(2)),
                0xdf => (0, self.length(4)?.saturating_mul(2)),
            };
            self.take(bytes)?;
            // Each takes a byte at least, so the message ends before a number that is made up does.
            values = values.saturating_add(members);
        }
        Some(())
    }
}
