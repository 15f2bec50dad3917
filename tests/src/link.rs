//! A cable between two hosts: a pair of virtual Ethernet interfaces that can be slowed, cut, or made to swallow everything.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};

use crate::{
    host::{Host, Namespaces},
    program::{Ended, Program},
};

/// Every command here talks to the kernel alone.
const BOUND: Duration = Duration::from_secs(10);

/// What a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the machine copies.
    Unlimited,
    /// This many Mbit/s each way, enforced by a token bucket with 50 ms of queue.
    Mbit(u32),
}

/// One end of a link.
#[derive(Debug)]
struct End {
    namespaces: Arc<Namespaces>,
    traffic: String,
    interface: String,
    address: String,
}

/// A cable between two hosts. It goes with either of them.
#[derive(Debug)]
pub struct Link {
    ends: [End; 2],
    rate: Rate,
}

impl Link {
    /// Joins two hosts by a new interface on each, with addresses in 10.91.`subnet`.0/24 (`.1` on the first) and link-local
    /// IPv6, multicast included.
    ///
    /// # Errors
    /// When the kernel refuses, with what `ip` said.
    pub fn between(first: &Host, second: &Host, subnet: u8, rate: Rate) -> Result<Link> {
        let (near, far) = (first.next_interface(), second.next_interface());
        let (near_ns, far_ns) = (first.holder_pid().to_string(), second.holder_pid().to_string());
        Program::here("ip")
            .args(["link", "add", &near, "netns", &near_ns, "type", "veth"])
            .args(["peer", "name", &far, "netns", &far_ns])
            .run(BOUND)
            .and_then(Ended::success)?;
        let link = Link {
            ends: [
                End::configure(first, near, format!("10.91.{subnet}.1"))?,
                End::configure(second, far, format!("10.91.{subnet}.2"))?,
            ],
            rate,
        };
        link.shape(rate)?;
        Ok(link)
    }

    /// The address of the first host on this link.
    pub fn first_address(&self) -> &str {
        &self.ends[0].address
    }

    /// The address of the second host on this link.
    pub fn second_address(&self) -> &str {
        &self.ends[1].address
    }

    /// How many bytes have arrived at the first host, frames counted whole.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn bytes_into_first(&self) -> Result<u64> {
        self.ends[0].received()
    }

    /// How many bytes have arrived at the second host, frames counted whole.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn bytes_into_second(&self) -> Result<u64> {
        self.ends[1].received()
    }

    /// Swallows every packet both ways while the interfaces stay up: what a closed laptop looks like from the other side.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn black_hole(&self, on: bool) -> Result<()> {
        if on {
            self.queue(&["replace"], &["rate", "8bit", "burst", "1", "limit", "1"])
        } else {
            self.shape(self.rate)
        }
    }

    /// Pulls the plug, or puts it back: both interfaces lose their carrier.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_up(&self, up: bool) -> Result<()> {
        for end in &self.ends {
            end.ip(&["link", "set", &end.interface, if up { "up" } else { "down" }])?;
        }
        Ok(())
    }

    fn shape(&self, rate: Rate) -> Result<()> {
        match rate {
            Rate::Mbit(mbit) => self
                .queue(&["replace"], &["rate", &format!("{mbit}mbit"), "burst", "256kb", "latency", "50ms"]),
            Rate::Unlimited => self.unshape(),
        }
    }

    fn queue(&self, verb: &[&str], bucket: &[&str]) -> Result<()> {
        for end in &self.ends {
            let tc = end
                .program("tc")
                .arg("qdisc")
                .args(verb)
                .args(["dev", &end.interface, "root", "tbf"])
                .args(bucket);
            tc.run(BOUND).and_then(Ended::success)?;
        }
        Ok(())
    }

    fn unshape(&self) -> Result<()> {
        for end in &self.ends {
            // Fails where there is nothing to remove, which is what is wanted.
            end.program("tc").args(["qdisc", "del", "dev", &end.interface, "root"]).run(BOUND)?;
        }
        Ok(())
    }
}

impl End {
    fn configure(host: &Host, interface: String, address: String) -> Result<End> {
        let end = End {
            namespaces: host.namespaces(),
            traffic: format!("/proc/{}/net/dev", host.holder_pid()),
            interface,
            address,
        };
        // Duplicate address detection keeps a link-local address unusable for a second; nobody else is on this cable.
        let undetected =
            format!("f=/proc/sys/net/ipv6/conf/{}/accept_dad; [ ! -e $f ] || echo 0 >$f", end.interface);
        end.program("sh").args(["-c", &undetected]).run(BOUND).and_then(Ended::success)?;
        end.ip(&["addr", "add", &format!("{}/24", end.address), "dev", &end.interface])?;
        end.ip(&["link", "set", &end.interface, "up"])?;
        end.ip(&["route", "add", "224.0.0.0/4", "dev", &end.interface])?;
        Ok(end)
    }

    fn program(&self, name: &str) -> Program {
        Program::inside(Arc::clone(&self.namespaces), name.into())
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        self.program("ip").args(args).run(BOUND).and_then(Ended::success).map(drop)
    }

    fn received(&self) -> Result<u64> {
        let table = fs::read_to_string(&self.traffic).context("reading the host's traffic counters")?;
        let line =
            table.lines().find_map(|line| line.trim().strip_prefix(&self.interface)?.strip_prefix(':'));
        let bytes = line.and_then(|line| line.split_whitespace().next()).context("the interface is gone")?;
        Ok(bytes.parse()?)
    }
}
