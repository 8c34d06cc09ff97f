//! The Redis that a node uses: the server of a URL, or the primary that Sentinels name.
//!
//! Sentinels agree on another primary when the present one fails. Any of them may be outdated, or cut off from the others. So
//! the primary is the one that more than half of them name.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisError,
};

use super::OpenError;

/// How long a Sentinel may take for its answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the Sentinels are asked whether the primary is still the same: a lease counts from their last answer.
pub(super) const PRIMARY_INTERVAL: Duration = Duration::from_secs(1);

const SENTINEL_SCHEME: &str = "redis+sentinel://";

/// See the module.
#[derive(Clone)]
pub struct Target(Kind);

#[derive(Clone)]
enum Kind {
    Server(ConnectionInfo),
    Sentinels {
        sentinels: Vec<ConnectionInfo>,
        /// The name of the primary and its replicas.
        service: String,
        /// The form of a connection to the primary: its address is replaced.
        primary: ConnectionInfo,
    },
}

/// The text is not the URL of a Redis. The text is not repeated: it may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a URL of the form redis://[user:password@]host[:port][/database], rediss:// for TLS, \
     redis+unix:///path/to/socket, or redis+sentinel://[user:password@]host:port,host:port/service[/database]"
)]
pub struct BadUrl;

impl fmt::Debug for Target {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Server(server) => f.debug_tuple("Server").field(&server.addr().to_string()).finish(),
            Kind::Sentinels { service, .. } => f.debug_tuple("Sentinels").field(service).finish(),
        }
    }
}

impl fmt::Display for Target {
    /// Where it is, without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Server(server) => server.addr().fmt(f),
            Kind::Sentinels { service, .. } => write!(f, "{service} of the Sentinels"),
        }
    }
}

impl FromStr for Target {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        let info = |url: &str| -> Result<ConnectionInfo, BadUrl> {
            let info = url.into_connection_info().map_err(|_error| BadUrl)?;
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            Ok(info.set_redis_settings(settings))
        };
        let Some(rest) = url.strip_prefix(SENTINEL_SCHEME) else { return Ok(Self(Kind::Server(info(url)?))) };
        let (authority, path) = rest.split_once('/').ok_or(BadUrl)?;
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        let sentinels = hosts.split(',').map(|host| info(&format!("redis://{host}"))).collect::<Result<Vec<_>, _>>()?;
        let at = if login.is_empty() { "" } else { "@" };
        let primary = info(&format!("redis://{login}{at}localhost/{database}"))?;
        if service.is_empty() || hosts.split(',').any(str::is_empty) {
            return Err(BadUrl);
        }
        Ok(Self(Kind::Sentinels { sentinels, service: service.to_owned(), primary }))
    }
}

impl Target {
    /// The server to connect to now.
    pub(crate) async fn client(&self) -> Result<Client, OpenError> {
        let info = match &self.0 {
            Kind::Server(server) => server.clone(),
            Kind::Sentinels { primary, .. } => {
                primary.clone().set_addr(self.named().await.ok_or(OpenError::NoPrimary)?)
            }
        };
        Ok(Client::open(info)?)
    }

    /// Whether the primary may change.
    pub(super) fn may_move(&self) -> bool {
        matches!(self.0, Kind::Sentinels { .. })
    }

    /// The address that more than half of the Sentinels name.
    pub(super) async fn named(&self) -> Option<ConnectionAddr> {
        let Kind::Sentinels { sentinels, service, .. } = &self.0 else { return None };
        let mut votes = HashMap::<(String, u16), usize>::new();
        for address in
            join_all(sentinels.iter().map(|sentinel| named_by(sentinel, service))).await.into_iter().flatten()
        {
            *votes.entry(address).or_default() += 1;
        }
        let (address, count) = votes.into_iter().max_by_key(|(_, count)| *count)?;
        (count * 2 > sentinels.len()).then_some(ConnectionAddr::Tcp(address.0, address.1))
    }
}

/// The address of the primary that a Sentinel names.
async fn named_by(sentinel: &ConnectionInfo, service: &str) -> Option<(String, u16)> {
    let asked = async {
        // A Sentinel has no databases, and speaks the older protocol in any version.
        let settings = sentinel.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let client = Client::open(sentinel.clone().set_redis_settings(settings))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_TIMEOUT))
            .set_response_timeout(Some(SENTINEL_TIMEOUT));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(service);
        command.query_async::<Option<(String, u16)>>(&mut connection).await
    };
    let answer: Result<_, RedisError> = asked.await;
    answer.inspect_err(|error| tracing::debug!(%error, "ask a Sentinel")).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_server_or_sentinels() {
        for good in [
            "redis://localhost",
            "redis://user:pass@host:6380/2",
            "rediss://host",
            "redis+unix:///run/redis/socket",
            "redis+sentinel://one:26379,two:26379,[::1]:26379/main",
            "redis+sentinel://user:p%40ss@one:26379/main/3",
        ] {
            assert!(good.parse::<Target>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "host:6379",
            "http://host",
            "redis://",
            "redis+sentinel://",
            "redis+sentinel://one:26379",
            "redis+sentinel://one:26379/",
            "redis+sentinel:///main",
            "redis+sentinel://one:x/main",
            "redis+sentinel://one:26379,/main",
            "redis+sentinel://one:26379/main/x",
        ] {
            assert_eq!(bad.parse::<Target>().err(), Some(BadUrl), "{bad}");
        }
        let hidden = format!("{:?}", "redis+sentinel://user:secret@one:26379/main".parse::<Target>());
        assert!(hidden.contains("main") && !hidden.contains("secret"), "{hidden}");
        let hidden = format!("{:?}", "redis://user:secret@one:26379".parse::<Target>());
        assert!(hidden.contains("one:26379") && !hidden.contains("secret"), "{hidden}");
    }
}
