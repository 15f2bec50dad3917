//! What the node asks the views' process about its cache, and what that answers.

use serde::{Deserialize, Serialize};

/// What the node asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheRequest {
    /// What does the cache hold?
    Status,
    /// Evict what is neither open nor pinned and was not used for so long.
    Prune {
        /// Seconds.
        unused_s: u64,
    },
    /// How far are the pins of this view?
    Pins {
        /// Which view.
        id: String,
    },
    /// Keep this here.
    Pin {
        /// Of which view.
        id: String,
        /// What.
        pin: PinnedPath,
    },
    /// Keep it no longer.
    Unpin {
        /// Of which view.
        id: String,
        /// What.
        pin: PinnedPath,
    },
}

/// What the process answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheAnswer {
    /// To [`CacheRequest::Status`].
    Status(CacheReport),
    /// To [`CacheRequest::Prune`].
    Pruned(CachePruned),
    /// To [`CacheRequest::Pins`], [`CacheRequest::Pin`] and [`CacheRequest::Unpin`]: the pins there are then. Nothing where
    /// there is no such file, or no such pin.
    Pins(Option<Vec<PinReport>>),
    /// Not pinned: there is no room.
    NoRoom(String),
}

/// A path that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedPath {
    /// Below which root of the view.
    pub root: u32,
    /// Where below it.
    pub path: String,
}

/// How far a pin is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// The pin.
    pub pin: PinnedPath,
    /// Files, and those that are here; bytes, and those that are here. Nothing where nothing lies there now, or that is
    /// not known yet.
    pub kept: Option<[u64; 4]>,
}

/// The cache of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Bytes on the disk.
    pub bytes: u64,
    /// What they may be at most.
    pub bytes_max: u64,
    /// What stays free on the disk.
    pub free_bytes_min: u64,
    /// The views.
    pub views: Vec<CachedView>,
}

/// What a view has in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedView {
    /// Which.
    pub id: String,
    /// Bytes on the disk; nothing while they are being counted.
    pub bytes: Option<u64>,
    /// Bytes of what is pinned.
    pub pinned_bytes: u64,
    /// Those of them that are here.
    pub pinned_bytes_here: u64,
    /// When something that is here was used last, in seconds since 1970.
    pub last_use: Option<u64>,
}

/// What was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachePruned {
    /// Files.
    pub files: u64,
    /// Bytes of the disk.
    pub bytes: u64,
    /// False when there is more, since it took too long: asked again, it goes on.
    pub is_done: bool,
}
