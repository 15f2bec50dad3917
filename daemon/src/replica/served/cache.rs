//! What a view has in the cache, and what of it is kept there: pins, written down beside the view's spec.

use std::io;
use std::path::Path;

use twinshare_fs::replica::{Pin, PinError, PinKept, PinStatus, Replica};

use super::{Failure, Served, blocking, spec};
use crate::api::wire::ReplicaKind;
use crate::chain::chain;
use crate::replica::control::{CacheAnswer, CachedView, PinReport, PinnedPath};

/// Name of the file beside the spec that names the pins.
const PINS: &str = "pins.json";

/// The pins of the replica whose state is in `directory`.
pub(super) fn load_pins(directory: &Path) -> io::Result<Vec<Pin>> {
    match spec::read::<Vec<PinnedPath>>(&directory.join(PINS)) {
        Ok(pins) => Ok(pins.into_iter().map(pin).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn save_pins(directory: &Path, pins: &[Pin]) -> Result<(), Failure> {
    let pins: Vec<PinnedPath> = pins.iter().map(path).collect();
    spec::write(directory, PINS, &pins)
        .map_err(|error| Failure::Other(format!("it cannot be written down: {}", chain(&error))))
}

impl Served {
    /// What it has in the cache; nothing of a clone.
    pub(in super::super) async fn cached(&self) -> Option<CachedView> {
        let (id, replica) = (self.spec.id.clone(), self.replica());
        let view = move || {
            let cached = replica.cached()?;
            Some(CachedView {
                id,
                bytes: cached.is_counted.then_some(cached.bytes),
                pinned_bytes: cached.pinned_bytes,
                pinned_bytes_here: cached.pinned_bytes_here,
                last_use: cached.last_use,
            })
        };
        blocking(move || Ok(view())).await.ok().flatten()
    }

    /// How far its pins are.
    pub(in super::super) async fn pins(&self) -> Result<CacheAnswer, Failure> {
        let replica = self.replica();
        blocking(move || Ok(told(&replica))).await
    }

    /// Pins a path. To be called for one at a time.
    pub(in super::super) async fn pin(&self, pinned: PinnedPath) -> Result<CacheAnswer, Failure> {
        self.only_a_view()?;
        let (replica, directory) = (self.replica(), self.home.replica(&self.spec.id));
        blocking(move || {
            let pin = pin(pinned);
            match replica.pin(pin.clone()) {
                Ok(pins) => save_pins(&directory, &pins).inspect_err(|_| drop(replica.unpin(&pin)))?,
                Err(PinError::NoSuchFile) => return Ok(CacheAnswer::Pins(None)),
                Err(error @ (PinError::OverBudget { .. } | PinError::NoSpace { .. })) => {
                    return Ok(CacheAnswer::NoRoom(no_room(&error)));
                }
                Err(error @ (PinError::NotCached | PinError::NotYet | PinError::TooMany)) => {
                    return Err(Failure::Other(error.to_string()));
                }
            }
            Ok(told(&replica))
        })
        .await
    }

    /// Removes a pin. To be called for one at a time.
    pub(in super::super) async fn unpin(&self, pinned: PinnedPath) -> Result<CacheAnswer, Failure> {
        let (replica, directory) = (self.replica(), self.home.replica(&self.spec.id));
        blocking(move || match replica.unpin(&pin(pinned)) {
            Some(pins) => save_pins(&directory, &pins).map(|()| told(&replica)),
            None => Ok(CacheAnswer::Pins(None)),
        })
        .await
    }

    fn only_a_view(&self) -> Result<(), Failure> {
        match self.spec.kind {
            ReplicaKind::View => Ok(()),
            ReplicaKind::Clone => Err(Failure::Other("a clone fetches everything anyway".into())),
        }
    }
}

/// The numbers as people read them.
fn no_room(error: &PinError) -> String {
    match error {
        PinError::OverBudget { wanted, pinned, bytes_max } => format!(
            "it has {}, {} are pinned already, and the cache holds {} at most",
            size(*wanted),
            size(*pinned),
            size(*bytes_max)
        ),
        PinError::NoSpace { missing, room } => {
            format!("{} of it are not here, and the disk has room for {}", size(*missing), size(*room))
        }
        other => other.to_string(),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

fn told(replica: &Replica) -> CacheAnswer {
    let report = |PinStatus { pin, kept }: PinStatus| PinReport {
        pin: path(&pin),
        kept: kept
            .map(|PinKept { files, files_here, bytes, bytes_here }| [files, files_here, bytes, bytes_here]),
    };
    CacheAnswer::Pins(Some(replica.pins().into_iter().map(report).collect()))
}

/// Only paths that are text come here.
fn path(pin: &Pin) -> PinnedPath {
    PinnedPath { root: pin.root, path: String::from_utf8_lossy(&pin.path).into_owned() }
}

fn pin(PinnedPath { root, path }: PinnedPath) -> Pin {
    Pin { root, path: path.into_bytes() }
}
