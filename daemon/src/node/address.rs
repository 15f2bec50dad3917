//! A peer's address as people write it: `host`, `host:port`, `address` or `[address]:port`.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::config::LISTEN_PORT;

/// Addresses of one host that are tried at most.
const ADDRESSES_MAX: usize = 8;

/// How long the resolver may take.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// A host and the port of the node on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    host: String,
    port: u16,
}

/// Why an address leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is not written as one.
    #[error("`{0}` is not an address: write `host`, `host:port`, `address` or `[address]:port`")]
    Form(String),
    /// The host's name is not known.
    #[error("the host `{host}` cannot be found: {source}")]
    UnknownHost {
        /// The host.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
}

impl FromStr for HostAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        split(text)
            .and_then(|(host, port)| {
                let port =
                    port.map_or(Some(LISTEN_PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
                is_host(host).then(|| Self { host: host.to_owned(), port })
            })
            .ok_or_else(|| AddressError::Form(text.chars().take(100).collect()))
    }
}

/// Host and port. More than one colon without brackets is an IPv6 address without a port.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

/// True for what may be a name or an address: the resolver decides about the rest.
fn is_host(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || ".-_:%".contains(c))
}

impl HostAddress {
    /// The address in its one form.
    pub(crate) fn canonical(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Asks the resolver.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, AddressError> {
        let unknown = |source| AddressError::UnknownHost { host: self.host.clone(), source };
        let looking = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = tokio::time::timeout(RESOLVE_WITHIN, looking).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unknown)?;
        match found.take(ADDRESSES_MAX).collect::<Vec<_>>() {
            none if none.is_empty() => Err(unknown(io::ErrorKind::NotFound.into())),
            addresses => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let parsed = text.parse::<HostAddress>().ok();
        assert_eq!(parsed.map(|address| address.canonical()).as_deref(), expected, "{text}");
    }

    #[test]
    fn addresses_are_read_in_every_form() {
        check("anna", Some("anna:37778"));
        check("anna.local:5", Some("anna.local:5"));
        check("10.0.0.1", Some("10.0.0.1:37778"));
        check("10.0.0.1:80", Some("10.0.0.1:80"));
        check("fe80::1%eth0", Some("[fe80::1%eth0]:37778"));
        check("[::1]", Some("[::1]:37778"));
        check("[::1]:9", Some("[::1]:9"));
        for wrong in
            ["", ":", "anna:", "anna:0", "anna:70000", "anna:x", "[::1", "[::1]9", "a b", "http://x", "[]:1"]
        {
            check(wrong, None);
        }
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let address: HostAddress = "[::1]:9".parse().unwrap();
        assert_eq!(address.resolve().await.unwrap(), ["[::1]:9".parse().unwrap()]);
    }
}
