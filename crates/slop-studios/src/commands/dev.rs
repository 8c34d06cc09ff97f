//! `dev`: `serve` for one person on one machine, with everything at hand to try it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::dev_files::DevFile;
use super::serve::start;
use super::token::user_claims;
use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingFlags};
use crate::contract::time::epoch_seconds;
use crate::identity::{SigningAlgorithm, TokenSigner};
use crate::server::Keep;

const USER: &str = "dev";
/// A working week, so that a page left open over night still works.
pub(super) const TOKEN_SECONDS: u64 = 7 * 86_400;

pub(crate) fn run(flags: &SettingFlags, in_memory: bool) -> Result<ExitCode, Failure> {
    let mut effective = Effective::load(flags, Profile::Dev);
    let data_dir = effective.data_dir()?;
    for (name, file) in [("JWT_SECRET", DevFile::JwtSecret), ("API_KEYS", DevFile::PublisherKey)] {
        if effective.text(name).is_none_or(str::is_empty) {
            effective.set_from_dev_file(name, &file.read_or_create(&data_dir)?);
        }
    }
    let settings = effective.settings()?;

    let now = epoch_seconds();
    let claims = user_claims(USER, None, now, now + TOKEN_SECONDS);
    let secret = settings.jwt_secret.as_ref().context("JWT_SECRET is empty")?;
    let token = TokenSigner::new(secret).sign(SigningAlgorithm::Hs256, &claims).context("can't make the token")?;
    let key = settings.api_keys.first().cloned().context("API_KEYS is empty")?;
    // The commands may be pasted into a shell in any folder, without the binary on its path.
    let executable = std::env::current_exe().context("can't find the running executable")?;
    let scheme = settings.scheme();
    // Without a reload on SIGHUP: a closed terminal sends SIGHUP, and the server must then end.
    let keep = if in_memory { Keep::Memory } else { Keep::of(&settings) };
    // A new item at each start: the stored one of an earlier start may have ended.
    let item = format!("demo-{now}");
    start(settings, keep, None, move |address| guide(scheme, address, &executable, &token, &key, &item))
}

/// The text with commands to try. Every command works when pasted into another shell.
fn guide(
    scheme: &str,
    address: SocketAddr,
    executable: &Path,
    token: &SecretString,
    key: &SecretString,
    item: &str,
) -> String {
    let url = format!("{scheme}://{}", reachable(address));
    let program = shell_quoted(&executable.to_string_lossy());
    let token = token.expose_secret();
    let key = key.expose_secret();
    let authorization = shell_quoted(&format!("Authorization: Bearer {key}"));
    let trust = match scheme {
        "https" => {
            "Where this system does not know who signed the certificate, add --ca FILE, or --cacert FILE to curl.\n"
        }
        _ => "",
    };
    format!(
        "
token of the user {USER:?}, valid for {days} days:
  {token}
publisher key:
  {key}

To try it, paste in a second shell, to listen:
  {program} listen --url {url} --media {item} --token {token}
in a third shell, to publish:
  curl -sS {url}/v1/media/{item}/progress -H {authorization} \\
    -H 'Content-Type: application/json' -d '{{\"progress\": 42, \"stage\": \"render\"}}'
  {program} publish --url {url} --key {quoted_key} complete {item} https://example.com/demo.mp4
{trust}
Stop with Ctrl-C.
",
        days = TOKEN_SECONDS / 86_400,
        quoted_key = shell_quoted(key),
    )
}

/// The address at which a client on this machine reaches a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The text as one word of a POSIX shell.
fn shell_quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:@%,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(shell_quoted("/usr/bin/x"), "/usr/bin/x");
        assert_eq!(shell_quoted("a b"), "'a b'");
        assert_eq!(shell_quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_quoted(""), "''");
    }

    #[test]
    fn an_unspecified_address_is_reached_by_loopback() {
        let reach = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(reach("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(reach("[::]:1"), "[::1]:1");
        assert_eq!(reach("192.0.2.1:1"), "192.0.2.1:1");
    }
}
