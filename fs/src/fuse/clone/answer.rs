//! What only a clone answers: files that were opened or made, bytes that were written, offsets that were found.

use fuser::{FileHandle, FopenFlags, Generation, ReplyCreate, ReplyLseek, ReplyOpen, ReplyWrite};

use crate::filesystem::{Attributes, ViewError};
use crate::fuse::errno::errno;
use crate::fuse::reply::{TTL, file_attr};

/// What is open is cached until the kernel changes it: nobody else does.
const CACHED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

/// Handles carry nothing: the number of the inode tells everything.
const HANDLE: FileHandle = FileHandle(0);

pub(super) fn opened(reply: ReplyOpen, opened: Result<(), ViewError>) {
    match opened {
        Ok(()) => reply.opened(HANDLE, CACHED),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn created(reply: ReplyCreate, made: Result<Attributes, ViewError>) {
    match made {
        Ok(attributes) => {
            let generation = Generation(attributes.generation);
            reply.created(&TTL, &file_attr(&attributes), generation, HANDLE, CACHED);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn written(reply: ReplyWrite, bytes: Result<u64, ViewError>) {
    match bytes {
        // At most what was to be written.
        Ok(bytes) => reply.written(bytes as u32),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn found(reply: ReplyLseek, found: Result<u64, ViewError>) {
    match found {
        Ok(offset) => reply.offset(offset.cast_signed()),
        Err(error) => reply.error(errno(&error)),
    }
}
