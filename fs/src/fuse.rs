//! The kernel's side: mounting a [`TreeView`](crate::filesystem::TreeView) and answering the kernel's requests.
//!
//! - A [`Mounter`] is made once, before any thread, and knows how this process may mount: as root through a small
//!   helper process that alone keeps CAP_SYS_ADMIN, else through `fusermount3`.
//! - A [`MountedRoot`] is one mount with the thread that serves it.
//! - A mount is never detached lazily or by force. Unmounting fails while somebody uses it, and says who.
//! - A mount whose server has died is found and removed by [`sweep_dead`].

mod adapter;
mod clone;
mod copies;
mod direct;
mod errno;
mod fusermount;
mod helper;
mod holders;
mod interrupt;
mod liveness;
mod mount;
mod mountinfo;
mod privilege;
mod reply;
mod unmount;
mod waits;

pub use holders::{HeldBy, Holder};
pub use liveness::{is_dead, is_fuse};
pub use mount::{MountError, MountOptions, MountedRoot, SessionEnd};
pub use privilege::{MountMode, Mounter};
pub use unmount::{UnmountError, sweep_dead};
