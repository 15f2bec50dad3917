//! What a workspace is: a directory with a `twinshare.yaml`.

mod name;

pub use name::{BadWorkspaceName, NAME_CHARS_MAX, WorkspaceName};
