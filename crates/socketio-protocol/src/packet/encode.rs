use serde_json::value::RawValue;

use super::{Kind, Packet};
use crate::json::{write_integer, write_string};

impl Packet<'_> {
    /// Appends the packet to `out` as a whole Engine.IO packet, the `4` included.
    ///
    /// This sends on what was decoded, or what a client has to say. Who emits an event has no [`super::Args`] to
    /// make a `Packet` of, and takes [`encode_event`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let namespace = self.namespace;
        match &self.kind {
            Kind::Connect { auth } => {
                head(out, b'0', 0, namespace, None);
                raw(out, *auth);
            }
            Kind::Disconnect => head(out, b'1', 0, namespace, None),
            Kind::Event { ack, args, attachments } => {
                let kind = if *attachments > 0 { b'5' } else { b'2' };
                head(out, kind, *attachments, namespace, *ack);
                out.extend_from_slice(args.as_json().as_bytes());
            }
            Kind::Ack { id, args, attachments } => {
                let kind = if *attachments > 0 { b'6' } else { b'3' };
                head(out, kind, *attachments, namespace, Some(*id));
                out.extend_from_slice(args.as_json().as_bytes());
            }
            Kind::ConnectError { data } => {
                head(out, b'4', 0, namespace, None);
                raw(out, *data);
            }
        }
    }
}

/// Appends a server's consent to a CONNECT: `40/media,{"sid":"…","pid":"…"}`.
///
/// `sid` is the socket's id in this namespace. `pid` is the secret with which a client recovers its session.
pub fn encode_connect(out: &mut Vec<u8>, namespace: &str, sid: &str, pid: Option<&str>) {
    head(out, b'0', 0, namespace, None);
    out.extend_from_slice(b"{\"sid\":");
    write_string(out, sid);
    if let Some(pid) = pid {
        out.extend_from_slice(b",\"pid\":");
        write_string(out, pid);
    }
    out.push(b'}');
}

/// Appends a server's refusal of a CONNECT: `44/random,{"message":"Invalid namespace"}`, with `,"data":…` if given.
///
/// `message` and `data` are what the client's `connect_error` gets as `error.message` and `error.data`.
pub fn encode_connect_error(out: &mut Vec<u8>, namespace: &str, message: &str, data: Option<&RawValue>) {
    head(out, b'4', 0, namespace, None);
    out.extend_from_slice(b"{\"message\":");
    write_string(out, message);
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data.get().as_bytes());
    }
    out.push(b'}');
}

/// Appends that the namespace is left: `41/media,`.
pub fn encode_disconnect(out: &mut Vec<u8>, namespace: &str) {
    head(out, b'1', 0, namespace, None);
}

/// Appends an event: `42/media,12["name",ARGS]`, or `452-/media,12["name",ARGS]` with two attachments.
///
/// - `namespace` begins with `/` and has no comma in it.
/// - `ack`: the id that the receiver shall acknowledge with, at most [`super::MAX_ACK_ID`].
/// - `attachments`: how many binary messages the caller sends after it, for each of which `args_json` has a placeholder.
/// - `args_json`: the arguments in JSON with commas between them, without brackets; `""` for none.
pub fn encode_event(
    out: &mut Vec<u8>,
    namespace: &str,
    ack: Option<u64>,
    attachments: usize,
    name: &str,
    args_json: &str,
) {
    // Type, count and id in digits, the brackets, quotes and commas: 48 bytes cover all of them.
    out.reserve(namespace.len() + name.len() + args_json.len() + 48);
    let kind = if attachments > 0 { b'5' } else { b'2' };
    head(out, kind, attachments, namespace, ack);
    out.push(b'[');
    write_string(out, name);
    if !args_json.is_empty() {
        out.push(b',');
        out.extend_from_slice(args_json.as_bytes());
    }
    out.push(b']');
}

/// Appends an acknowledgement: `43/media,12[ARGS]`, or `461-/media,12[ARGS]` with an attachment.
///
/// `id` is the event's. The other parameters are as for [`encode_event`].
pub fn encode_ack(out: &mut Vec<u8>, namespace: &str, id: u64, attachments: usize, args_json: &str) {
    out.reserve(namespace.len() + args_json.len() + 48);
    let kind = if attachments > 0 { b'6' } else { b'3' };
    head(out, kind, attachments, namespace, Some(id));
    out.push(b'[');
    out.extend_from_slice(args_json.as_bytes());
    out.push(b']');
}

/// Appends all that comes before the payload.
fn head(out: &mut Vec<u8>, kind: u8, attachments: usize, namespace: &str, id: Option<u64>) {
    out.extend_from_slice(&[b'4', kind]);
    if attachments > 0 {
        write_integer(out, attachments as u64);
        out.push(b'-');
    }
    if namespace != "/" {
        out.extend_from_slice(namespace.as_bytes());
        out.push(b',');
    }
    if let Some(id) = id {
        write_integer(out, id);
    }
}

fn raw(out: &mut Vec<u8>, value: Option<&RawValue>) {
    if let Some(value) = value {
        out.extend_from_slice(value.get().as_bytes());
    }
}
