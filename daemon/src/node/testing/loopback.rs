//! Real nodes on homes of their own, on loopback alone.

use std::net::UdpSocket;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::wire::CreateWorkspace;
use crate::client::Client;
use crate::config::{Config, DiscoveryConfig, Interfaces, Listen};
use crate::home::Home;
use crate::node::RunningNode;

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A home, and the configuration of whoever lives there.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    pub(crate) home: Home,
    pub(crate) config: Config,
}

/// `discovery` is the port of the beacons; without one, there is no discovery.
pub(crate) fn bench(name: &str, discovery: Option<u16>) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::isolated(&directory.path().canonicalize().unwrap().join("home"));
    home.prepare().unwrap();
    let discovery = DiscoveryConfig {
        enabled: discovery.is_some(),
        port: discovery.unwrap_or(1),
        interfaces: Interfaces::Named(vec!["lo".to_owned()]),
    };
    let listen = Listen { address: Some([127, 0, 0, 1].into()), port: 0 };
    let config = Config { name: name.parse().unwrap(), listen, discovery, ..Config::default() };
    Bench { directory, home, config }
}

impl Bench {
    pub(crate) async fn start(&self) -> (RunningNode, Client) {
        let lock = self.home.lock().unwrap();
        let running = RunningNode::start(&self.home, self.config.clone(), lock).await.unwrap();
        (running, Client::new(self.home.api_socket()))
    }

    /// A workspace directory with one file.
    pub(crate) fn workspace(&self, name: &str) -> CreateWorkspace {
        let directory = self.directory.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("hello.txt"), "hello\n").unwrap();
        CreateWorkspace { directory: directory.to_str().unwrap().to_owned(), name: None }
    }
}

/// A UDP port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, found).await.expect("the condition holds in time")
}
