//! Extended attributes: those of the manifest, which are the user's.

use super::{NodeId, TreeView, ViewError};
use crate::manifest::Entry;

/// The namespace that travels.
const USER: &[u8] = b"user.";

impl TreeView {
    /// The value of an xattr.
    pub fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        if !name.starts_with(USER) {
            return Err(ViewError::XattrNotSupported);
        }
        let found = xattrs(&self.entry(node)?).into_iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value).ok_or(ViewError::NoXattr)
    }

    /// The names of all xattrs, each followed by a NUL (`listxattr(2)`).
    pub fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, ViewError> {
        let xattrs = xattrs(&self.entry(node)?);
        Ok(xattrs.into_iter().flat_map(|(name, _)| name.into_iter().chain([0])).collect())
    }
}

fn xattrs(entry: &Entry<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    if entry.has_extra() { entry.extra().xattrs } else { Vec::new() }
}
