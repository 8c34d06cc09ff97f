//! What a server says in a text message, distinguished by its first bytes.

/// A message of a server, as far as the load cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A published event; what follows its name and the comma.
    Update(&'a [u8]),
    /// Engine.IO's handshake.
    Open,
    /// Engine.IO's heartbeat.
    Ping,
    /// A namespace is connected; what follows the packet's type.
    Connected(&'a [u8]),
    /// A namespace is refused.
    Refused,
    /// The default namespace's `welcome`.
    Welcome,
    /// The event `pong`.
    Pong,
    /// An acknowledgement in the default namespace: its id and its arguments.
    Ack(u32, &'a [u8]),
    /// Something that was not waited for.
    Other,
}

/// Tells what `text` is.
#[inline]
#[must_use]
pub fn classify(text: &[u8]) -> Message<'_> {
    if let Some(rest) = text.strip_prefix(br#"42["update","#) {
        return Message::Update(rest);
    }
    match text {
        [b'4', b'3', rest @ ..] => ack(rest),
        [b'4', b'2', rest @ ..] if rest.starts_with(br#"["pong""#) => Message::Pong,
        [b'4', b'2', rest @ ..] if rest.starts_with(br#"["welcome""#) => Message::Welcome,
        [b'2'] => Message::Ping,
        [b'0', ..] => Message::Open,
        [b'4', b'0', rest @ ..] => Message::Connected(rest),
        [b'4', b'4', ..] => Message::Refused,
        _ => Message::Other,
    }
}

/// The text of a field of a packet's JSON, if it stands there without escapes.
#[must_use]
pub fn text_field<'a>(json: &'a [u8], name: &str) -> Option<&'a str> {
    let json = std::str::from_utf8(json).ok()?;
    let (_, rest) = json.split_once(&format!("\"{name}\":\""))?;
    Some(rest.split_once('"')?.0)
}

/// An event's offset: the text at its end (Socket.IO's connection state recovery).
#[must_use]
pub fn offset(text: &[u8]) -> Option<&str> {
    let rest = text.strip_prefix(b"42[")?.strip_suffix(b"\"]")?;
    let at = rest.iter().rposition(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(at + 1..)?)
        .ok()
        .filter(|_| rest.get(..at).is_some_and(|before| before.ends_with(b",")))
}

fn ack(rest: &[u8]) -> Message<'_> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (id, args) = rest.split_at(digits);
    match std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
        Some(id) => Message::Ack(id, args),
        None => Message::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_from_packets() {
        assert_eq!(text_field(br#"{"sid":"a","pid":"b"}"#, "pid"), Some("b"));
        assert_eq!(text_field(br#"{"sid":"a"}"#, "pid"), None);
        assert_eq!(offset(br#"42["update",{"p":"x"},"1f"]"#), Some("1f"));
        assert_eq!(offset(br#"42["update"]"#), None);
        assert_eq!(offset(br#"42["update",{"p":1}]"#), None);
    }

    #[test]
    fn the_messages_of_servers_are_distinguished() {
        for (text, message) in [
            (r#"42["update",{"p":1}]"#, Message::Update(br#"{"p":1}]"#)),
            (r#"42["update2",{"p":1}]"#, Message::Other),
            (r#"42/media,["update",1]"#, Message::Other),
            (r#"0{"sid":"x"}"#, Message::Open),
            ("2", Message::Ping),
            (r#"40{"sid":"x"}"#, Message::Connected(br#"{"sid":"x"}"#)),
            (r#"40/media,{"sid":"x"}"#, Message::Connected(br#"/media,{"sid":"x"}"#)),
            (r#"44{"message":"no"}"#, Message::Refused),
            (r#"42["welcome",{}]"#, Message::Welcome),
            (r#"42["pong",{"timestamp":1}]"#, Message::Pong),
            ("43[1]", Message::Other),
            (r#"4312[{"success":true}]"#, Message::Ack(12, br#"[{"success":true}]"#)),
            ("", Message::Other),
            ("6", Message::Other),
        ] {
            assert_eq!(classify(text.as_bytes()), message, "{text}");
        }
    }
}
