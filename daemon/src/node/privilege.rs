//! What a node gives up and asks for before it has a second thread.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::api::wire::Mode;

/// With whose rights this process runs.
pub(super) fn mode() -> Mode {
    if rustix::process::geteuid().is_root() { Mode::Root } else { Mode::User }
}

/// Takes CAP_SYS_ADMIN out of what this process may use and may take back.
///
/// The node talks to networks and needs no such right. The replicas' processes do: they mount. They are started by
/// `execve`, which gives root every capability in the bounding set (capabilities(7), "Capabilities and execution of
/// programs by root"), and that set is left alone. So whoever takes over the node's code has to start another program
/// first, which a confined node (seccomp, systemd) can be denied.
///
/// Capabilities belong to a thread: this must run before there is a second one.
pub(super) fn drop_sys_admin() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(CapabilitySet::SYS_ADMIN);
    }
    Ok(set_capabilities(None, sets)?)
}

/// Allows as many descriptors as this user may have: a share of many files under load needs more than the usual
/// 1,024, which exist only for programs that call select(2).
pub(super) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_is_gone_for_good_and_a_program_started_has_it_again() {
        // In a thread of its own, whose capabilities end with it.
        let thread = std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            drop_sys_admin().unwrap();
            let after = capabilities(None).unwrap();
            assert!(!after.effective.union(after.permitted).contains(CapabilitySet::SYS_ADMIN));
            assert_eq!(after.permitted, before.permitted.difference(CapabilitySet::SYS_ADMIN));
            if mode() == Mode::User || !before.permitted.contains(CapabilitySet::SYS_ADMIN) {
                return;
            }
            assert!(set_capabilities(None, before).is_err(), "it cannot be taken back");
            let status =
                std::process::Command::new("grep").args(["CapEff", "/proc/self/status"]).output().unwrap();
            let text = String::from_utf8(status.stdout).unwrap();
            let bits = u64::from_str_radix(text.trim_start_matches("CapEff:").trim(), 16).unwrap();
            assert_eq!(bits & CapabilitySet::SYS_ADMIN.bits(), CapabilitySet::SYS_ADMIN.bits());
        });
        thread.join().unwrap();
    }
}
