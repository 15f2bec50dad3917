//! Asking the kernel whether somebody may be writing to a file.
//!
//! A process that has a file open for writing, or mapped shared and writable, may change it without its times telling:
//! a store into a page that is already dirty updates nothing. The kernel grants a read lease only where nobody is
//! able to, so a lease is tried and given back at once. That works for files of our own (`CAP_LEASE` apart), on local
//! filesystems.

use std::fs::File;
use std::os::fd::AsRawFd;

/// `F_SETSIG` of `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// True when a process has the file, which is open for reading here, open for writing or mapped writable; `None`
/// where the kernel does not say.
///
/// A process that opens the file for writing within the microseconds the lease exists waits for its end.
pub(super) fn has_writer(file: &File) -> Option<bool> {
    // Somebody who opens the file just then makes the kernel send us a signal: SIGIO, which would end the process,
    // unless another is chosen. SIGURG is ignored by default.
    if !fcntl(file, F_SETSIG, libc::SIGURG) {
        return None;
    }
    if fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) {
        fcntl(file, libc::F_SETLEASE, libc::F_UNLCK);
        return Some(false);
    }
    (std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)).then_some(true)
}

#[expect(unsafe_code, reason = "leases are not in rustix")]
fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> bool {
    // SAFETY: these commands take an integer, and the descriptor is open for as long as the call takes.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_seen_as_long_as_they_could_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let writer = File::create_new(&path).unwrap();
        writer.set_len(4096).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(has_writer(&file), Some(true));
        drop(writer);
        assert_eq!(has_writer(&file), Some(false));
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        #[expect(unsafe_code, reason = "mapping a file")]
        // SAFETY: nobody truncates the file.
        let map = unsafe { memmap2::MmapMut::map_mut(&writer) }.unwrap();
        drop(writer);
        assert_eq!(has_writer(&file), Some(true), "a mapping outlives its descriptor");
        drop(map);
        assert_eq!(has_writer(&file), Some(false));
    }
}
