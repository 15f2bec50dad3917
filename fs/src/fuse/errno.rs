//! What a program is told when a call fails: the one table from errors to errno.

use fuser::Errno;

use crate::filesystem::ViewError;
use crate::replica::ReadError;

/// The errno of a failed call.
pub(super) fn errno(error: &ViewError) -> Errno {
    match error {
        ViewError::ManifestFailed(_) | ViewError::Late | ViewError::NotYet => Errno::EIO,
        ViewError::System(errno) => Errno::from_i32(errno.raw_os_error()),
        ViewError::NotADirectory => Errno::ENOTDIR,
        ViewError::IsADirectory => Errno::EISDIR,
        ViewError::WrongKind => Errno::EINVAL,
        ViewError::NameTooLong => Errno::ENAMETOOLONG,
        ViewError::NoXattr => Errno::ENODATA,
        ViewError::XattrNotSupported => Errno::EOPNOTSUPP,
        ViewError::BeyondEnd => Errno::ENXIO,
        ViewError::Outdated => Errno::ESTALE,
        ViewError::Interrupted => Errno::EINTR,
        ViewError::Read(error) => read_errno(error),
    }
}

fn read_errno(error: &ReadError) -> Errno {
    match error {
        ReadError::Gone(_)
        | ReadError::Busy(_)
        | ReadError::Corrupt(_)
        | ReadError::Unreadable(_)
        | ReadError::NoSuchFile => Errno::EIO,
        ReadError::Stale => Errno::ESTALE,
        ReadError::Refused(_) => Errno::EACCES,
        // An error of the local disk is the user's own and passes through.
        ReadError::Io(errno) => Errno::from_i32(errno.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: ReadError, expected: i32) {
        assert_eq!(errno(&error.into()).code(), expected);
    }

    #[test]
    fn reads_fail_as_the_semantics_say() {
        check(ReadError::Gone(String::new()), libc::EIO);
        check(ReadError::Stale, libc::ESTALE);
        check(ReadError::Refused(String::new()), libc::EACCES);
        check(ReadError::Corrupt(String::new()), libc::EIO);
        check(ReadError::Io(rustix::io::Errno::NFILE), libc::ENFILE);
        assert_eq!(errno(&ViewError::Interrupted).code(), libc::EINTR);
    }
}
