//! The node's configuration: one optional YAML file, every key optional, every default written on its field.
//!
//! A key that does not exist is an error with its place, so that a typing mistake is not silently a default.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use serde::de::{self, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twinshare_fs::replica::CacheLimits;
pub use twinshare_fs::replica::WhenGone;

use crate::yaml::{self, YamlError};

mod name;
mod size;

pub use name::{BadNodeName, NodeName};
pub use size::{NotASize, Size};

/// The port of both QUIC (UDP) and, later, REST (TCP).
pub const LISTEN_PORT: u16 = 37778;
/// The port of discovery's beacons.
pub const DISCOVERY_PORT: u16 = 37777;

/// What the user chose for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "settings")]
pub struct Config {
    /// How the node is called on other people's screens. Default: the host's name.
    pub name: NodeName,
    /// Where other nodes reach this one.
    pub listen: Listen,
    /// How it finds other nodes.
    pub discovery: DiscoveryConfig,
    /// What a reader of a mount waits for once the peer is gone: `fail`, `wait` or `wait=10s`. Default: `wait=10s`.
    #[serde(deserialize_with = "yaml::scalar")]
    pub when_gone: WhenGone,
    /// What mounts may keep on the disk of what they fetched.
    pub cache: CacheConfig,
    /// How much the node's log says. Default: `info`.
    pub log: LogLevel,
}

/// What mounts may keep on the disk of what they fetched, all together. Sizes are written as `50GB`, `500MB`, `20GiB`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "settings")]
pub struct CacheConfig {
    /// Bytes of content at most; beyond it, what was used longest ago is evicted. Default: a tenth of the disk, at most
    /// 50 GB.
    #[serde(deserialize_with = "size", skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<Size>,
    /// Bytes that stay free on the disk; with less, content is evicted. Default: a twentieth of the disk, at most 5 GB.
    #[serde(deserialize_with = "size", skip_serializing_if = "Option::is_none")]
    pub free_bytes_min: Option<Size>,
}

/// Where other nodes reach this one (QUIC, UDP).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "settings")]
pub struct Listen {
    /// The address to listen on. Default: every address, IPv6 and IPv4.
    pub address: Option<IpAddr>,
    /// The port; where it is taken, a free one is used and announced. Default: 37778.
    pub port: u16,
}

/// How the node finds others on its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "settings")]
pub struct DiscoveryConfig {
    /// Whether it announces itself and listens for others. Default: true.
    pub enabled: bool,
    /// The port of the beacons (UDP); every node of a network must use the same. Default: 37777.
    pub port: u16,
    /// Which network interfaces are used: a list of names, or `auto`. Default: `auto`, which is every interface that
    /// is up except loopback, bridges, tunnels and those of containers and virtual machines.
    pub interfaces: Interfaces,
}

/// Which network interfaces discovery uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// Chosen by the node.
    #[default]
    Auto,
    /// Exactly these, by name.
    Named(Vec<String>),
}

/// How much a log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is likely to.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And every step.
    Trace,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    yaml::scalar(deserializer).map(Some)
}

impl CacheConfig {
    /// The limits of a cache in `directory`, which may not exist yet. Blocks for a system call.
    pub fn limits(&self, directory: &Path) -> CacheLimits {
        // Of a disk that does not say how large it is nothing is used unless somebody chose.
        let bytes = disk(directory).map_or(0, |space| space.f_blocks * space.f_frsize);
        let default = CacheLimits::for_disk(bytes);
        CacheLimits {
            bytes_max: self.bytes_max.map_or(default.bytes_max, |size| size.0),
            free_bytes_min: self.free_bytes_min.map_or(default.free_bytes_min, |size| size.0),
        }
    }
}

/// Bytes that are free on the filesystem of a directory, which may not exist yet. Blocks for a system call.
pub(crate) fn free_bytes(directory: &Path) -> Option<u64> {
    disk(directory).map(|space| space.f_bavail * space.f_frsize)
}

fn disk(directory: &Path) -> Option<rustix::fs::StatVfs> {
    directory.ancestors().find_map(|above| rustix::fs::statvfs(above).ok())
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: None, port: LISTEN_PORT }
    }
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { enabled: true, port: DISCOVERY_PORT, interfaces: Interfaces::Auto }
    }
}

impl LogLevel {
    /// The level's name, as `tracing` reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Config {
    /// Reads the file; one that does not exist, or holds nothing, gives the defaults.
    pub fn load(path: &Path) -> Result<Self, YamlError> {
        Ok(yaml::load::<Option<Self>>(path)?.flatten().unwrap_or_default())
    }

    /// Reads `text`; `path` is what messages call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, YamlError> {
        Ok(yaml::parse::<Option<Self>>(text, path)?.unwrap_or_default())
    }
}

impl Serialize for Interfaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Interfaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InterfacesVisitor)
    }
}

struct InterfacesVisitor;

impl<'de> Visitor<'de> for InterfacesVisitor {
    type Value = Interfaces;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`auto` or a list of interface names")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Interfaces, E> {
        match text {
            "auto" => Ok(Interfaces::Auto),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Interfaces, A::Error> {
        let mut all = Vec::new();
        while let Some(name) = names.next_element()? {
            all.push(name);
        }
        Ok(Interfaces::Named(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Config, &str>) {
        let parsed = Config::parse(text, Path::new("/c"));
        assert_eq!(parsed.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn every_key_is_optional() {
        let full = "name: anna\nlisten: {address: 10.0.0.1, port: 5}\nwhen_gone: fail\nlog: debug\n\
                    cache: {bytes_max: 20GB, free_bytes_min: 1GiB}\n\
                    discovery:\n  enabled: false\n  port: 6\n  interfaces: [lo, eth0]\n";
        let expected = Config {
            name: "anna".parse().unwrap(),
            listen: Listen { address: Some([10, 0, 0, 1].into()), port: 5 },
            discovery: DiscoveryConfig {
                enabled: false,
                port: 6,
                interfaces: Interfaces::Named(vec!["lo".into(), "eth0".into()]),
            },
            when_gone: WhenGone::Fail,
            cache: CacheConfig { bytes_max: Some(Size(20_000_000_000)), free_bytes_min: Some(Size(1 << 30)) },
            log: LogLevel::Debug,
        };
        check(full, Ok(expected.clone()));
        let written = serde_norway::to_string(&expected).unwrap();
        check(&written, Ok(expected));
        check("", Ok(Config::default()));
        check("# nothing\n", Ok(Config::default()));
        check("discovery: {interfaces: auto}", Ok(Config::default()));
    }

    #[test]
    fn a_mistake_is_an_error_with_its_place() {
        check(
            "nmae: x",
            Err("/c: unknown field `nmae`, expected one of `name`, `listen`, `discovery`, \
                              `when_gone`, `cache`, `log` at line 1 column 1"),
        );
        check(
            "cache: {bytes_max: much}",
            Err(
                "/c: cache.bytes_max: `much` is not a number of bytes such as `50GB`, `500MB` or `20GiB` at line 1 column 20",
            ),
        );
        check(
            "listen:\n  prot: 1",
            Err("/c: listen: unknown field `prot`, expected `address` or `port` at line 2 column 3"),
        );
        check(
            "log: loud",
            Err("/c: log: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, \
                                `trace` at line 1 column 6"),
        );
        check(
            "when_gone: wait=soon",
            Err(
                "/c: when_gone: `wait=soon` is not `fail`, `wait` or `wait=DURATION` with a duration such as \
                                    `500ms`, `10s`, `5m` or `1h` at line 1 column 12",
            ),
        );
        check(
            "discovery:\n  interfaces: all",
            Err("/c: discovery.interfaces: invalid value: string \"all\", \
                                    expected `auto` or a list of interface names at line 2 column 15"),
        );
        check(
            "name: \"a\\u0007b\"",
            Err("/c: name: a node's name has 1 to 64 characters, no control characters, \
                                        and no spaces around it at line 1 column 7"),
        );
        check("name: a\nname: b", Err("/c: duplicate field `name` at line 1 column 1"));
        check(
            "listen: {port: 70000}",
            Err("/c: listen.port: invalid value: integer `70000`, expected u16 at line 1 column 16"),
        );
        check(
            "just text",
            Err("/c: invalid type: string \"just text\", expected settings at line 1 column 1"),
        );
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        assert_eq!(Config::load(&path).unwrap(), Config::default());
        std::fs::write(&path, "# nothing\n").unwrap();
        assert_eq!(Config::load(&path).unwrap(), Config::default());
        std::fs::write(&path, "log: warn").unwrap();
        assert_eq!(Config::load(&path).unwrap().log, LogLevel::Warn);
    }
}
