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
    /// What stands for the port is none.
    #[error("`{port}` is not a port, in `{text}`: write `host:port` with a number from 1 to 65535")]
    Port {
        /// What was written for it.
        port: String,
        /// The whole address.
        text: String,
    },
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
        let form = || AddressError::Form(quoted(text));
        let (host, port) = split(text)
            .filter(|(host, port)| is_host(host) && port.is_none_or(|port| !port.contains('/')))
            .ok_or_else(form)?;
        let port = match port {
            None => LISTEN_PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| AddressError::Port { port: quoted(port), text: quoted(text) })?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// As much of what was written as a message takes.
fn quoted(text: &str) -> String {
    text.chars().take(100).collect()
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

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("foo:bar", "`bar` is not a port, in `foo:bar`"),
            ("anna:70000", "`70000` is not a port"),
            ("anna:", "`` is not a port"),
            ("a b", "`a b` is not an address"),
            ("http://x", "`http://x` is not an address"),
        ] {
            let error = text.parse::<HostAddress>().unwrap_err().to_string();
            assert!(error.starts_with(part), "{error}");
        }
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let address: HostAddress = "[::1]:9".parse().unwrap();
        assert_eq!(address.resolve().await.unwrap(), ["[::1]:9".parse().unwrap()]);
    }
}
