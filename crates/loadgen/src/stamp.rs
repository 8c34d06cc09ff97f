//! What a published event carries so that each delivery of it can be distinguished from every other:
//! `{"p":"SSRRRRQQQQQQQQxxxx…"}` with the stream, the room and the sequence number in hexadecimal.

use anyhow::{Result, bail};

/// Which event a delivery is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// One of the publishers of the room; each counts for itself.
    pub stream: u8,
    /// The room's number.
    pub room: u16,
    /// Counts the events of a room's stream from 0.
    pub sequence: u32,
}

const HEAD: &[u8] = br#"{"p":""#;
const TAIL: &[u8] = br#""}"#;
const DIGITS: usize = 14;

/// The smallest payload that has room for a stamp, in bytes.
pub const MIN_BYTES: usize = HEAD.len() + DIGITS + TAIL.len();

impl Stamp {
    /// Appends the payload, exactly `bytes` long.
    ///
    /// # Panics
    /// If `bytes` is less than [`MIN_BYTES`].
    pub fn write(&self, out: &mut Vec<u8>, bytes: usize) {
        let padding = bytes.checked_sub(MIN_BYTES).expect("a payload with room for its stamp");
        out.extend_from_slice(HEAD);
        hex(out, u32::from(self.stream), 2);
        hex(out, u32::from(self.room), 4);
        hex(out, self.sequence, 8);
        out.resize(out.len() + padding, b'x');
        out.extend_from_slice(TAIL);
    }

    /// Reads the stamp of a payload that was written with the same `bytes`, and checks that its end is where it
    /// belongs. What follows it (the packet's end, or an offset before) is not looked at.
    ///
    /// # Errors
    /// If it is something else.
    #[inline]
    pub fn read(payload: &[u8], bytes: usize) -> Result<Self> {
        let digits: Option<&[u8; DIGITS]> = payload.get(HEAD.len()..).and_then(<[u8]>::first_chunk);
        let whole = payload.starts_with(HEAD) && payload.get(bytes - TAIL.len()..bytes) == Some(TAIL);
        let number = digits.filter(|_| whole).and_then(|digits| {
            digits.iter().try_fold(0u64, |number, digit| {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(number << 4 | u64::from(value))
            })
        });
        let Some(number) = number else {
            let shown = &payload[..payload.len().min(60)];
            bail!("an event that was not published: {} bytes of {}", payload.len(), String::from_utf8_lossy(shown));
        };
        Ok(Self { stream: (number >> 48) as u8, room: (number >> 32) as u16, sequence: number as u32 })
    }
}

fn hex(out: &mut Vec<u8>, number: u32, digits: u32) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * digit) & 0xf) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { stream: 0xa7, room: 1999, sequence: 0xdead_beef };
        for bytes in [MIN_BYTES, 200, 4096] {
            let mut payload = Vec::new();
            stamp.write(&mut payload, bytes);
            assert_eq!(payload.len(), bytes);
            assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
            for end in [&b"]"[..], br#","offset"]"#] {
                let sent = [payload.as_slice(), end].concat();
                assert_eq!(Stamp::read(&sent, bytes).unwrap(), stamp);
            }
        }
    }

    #[test]
    fn what_was_cut_or_changed_is_refused() {
        let mut payload = Vec::new();
        Stamp { stream: 1, room: 2, sequence: 3 }.write(&mut payload, 64);
        assert!(Stamp::read(&payload[..63], 64).is_err());
        assert!(Stamp::read(&payload, 63).is_err());
        assert!(Stamp::read(b"", 64).is_err());
        payload[8] = b'g';
        assert!(Stamp::read(&payload, 64).is_err());
    }
}
