//! One beacon: its bytes, its signature, and what is taken from somebody else's.

use serde::{Deserialize, Serialize};
use twinshare_transport::identity::{Identity, PublicKey};

use crate::config::NodeName;
use crate::workspace::WorkspaceName;

/// Bytes of a datagram at most: below every link's MTU that IPv6 allows (RFC 8200 section 5), headers included, so
/// it is never fragmented.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1200;

/// Bytes the compressed part may unpack to.
const UNPACKED_BYTES_MAX: usize = 16 * 1024;

/// Begins every datagram; the last byte is the version.
const MAGIC: &[u8; 4] = b"TWB\x01";

/// Where the signature and the signed bytes begin.
const SIGNATURE_AT: usize = 4 + 32;
const SIGNED_AT: usize = SIGNATURE_AT + 64;

/// Keeps a beacon's signature from being valid as anything else's.
const CONTEXT: &str = "twinshare beacon 1";

/// Names taken from somebody else's beacon at most; more do not fit into an honest one.
const NAMES_MAX: usize = 128;

/// Higher levels cost milliseconds and gain nothing on a kilobyte.
const COMPRESSION_LEVEL: i32 = 3;

/// Why a beacon was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// The sender is there.
    Announce,
    /// The same, and it wants to hear at once who else is.
    Query,
    /// The sender stops.
    Goodbye,
}

/// What a beacon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beacon {
    pub(super) kind: Kind,
    /// Milliseconds since 1970 on the sender's clock, larger in each beacon it sends.
    pub(super) sent_ms: u64,
    pub(super) name: NodeName,
    /// Where it listens (QUIC, UDP), on the address the datagram comes from.
    pub(super) port: u16,
    /// Openly visible workspaces, as far as they fit.
    pub(super) workspaces: Vec<WorkspaceName>,
    /// How many there are.
    pub(super) workspaces_total: u32,
    /// A hash of all their names: another one means that the list has changed.
    pub(super) catalogue: u64,
}

/// A datagram that is no beacon, or not one to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadBeacon {
    #[error("not a beacon of a version known here")]
    Foreign,
    #[error("the signature is not valid")]
    Signature,
    #[error("the content cannot be read")]
    Content,
}

/// The JSON inside. Fields that are not known are left unread, so that later versions may add some.
#[derive(Serialize, Deserialize)]
struct Json {
    kind: Kind,
    sent_ms: u64,
    name: String,
    port: u16,
    workspaces: Vec<String>,
    workspaces_total: u32,
    catalogue: u64,
}

impl Beacon {
    /// The signed datagram; names of workspaces that do not fit are left out.
    pub(super) fn encode(&self, identity: &Identity) -> Vec<u8> {
        let all = self.packed(self.workspaces.len());
        let packed = match all.len() <= DATAGRAM_BYTES_MAX - SIGNED_AT {
            true => all,
            false => self.packed(self.names_that_fit()),
        };
        let signature = identity.sign(CONTEXT, &packed);
        [MAGIC.as_slice(), &identity.public_key().0, &signature, &packed].concat()
    }

    /// The largest number of names that fits. The size grows with the number, but for some bytes of the compressor's
    /// moods, so what the search ends with is one that was seen to fit.
    fn names_that_fit(&self) -> usize {
        let (mut fits, mut too_many) = (0, self.workspaces.len());
        while fits + 1 < too_many {
            let middle = fits.midpoint(too_many);
            match self.packed(middle).len() <= DATAGRAM_BYTES_MAX - SIGNED_AT {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        fits
    }

    fn packed(&self, names: usize) -> Vec<u8> {
        let json = Json {
            kind: self.kind,
            sent_ms: self.sent_ms,
            name: self.name.as_str().into(),
            port: self.port,
            workspaces: self.workspaces.iter().take(names).map(|name| name.as_str().into()).collect(),
            workspaces_total: self.workspaces_total,
            catalogue: self.catalogue,
        };
        let json = serde_json::to_vec(&json).expect("strings and numbers always have a JSON form");
        zstd::bulk::compress(&json, COMPRESSION_LEVEL).expect("compressing into memory cannot fail")
    }

    /// Reads a datagram: whose key signed it, and what it says. Accepts any bytes, and takes at most 16 KiB for them.
    pub(super) fn decode(datagram: &[u8]) -> Result<(PublicKey, Self), BadBeacon> {
        let (key, signature, packed) = parts(datagram).ok_or(BadBeacon::Foreign)?;
        key.verify(CONTEXT, packed, signature).map_err(|_| BadBeacon::Signature)?;
        let json = zstd::bulk::decompress(packed, UNPACKED_BYTES_MAX).map_err(|_| BadBeacon::Content)?;
        let json: Json = serde_json::from_slice(&json).map_err(|_| BadBeacon::Content)?;
        if json.port == 0 {
            return Err(BadBeacon::Content);
        }
        let names = json.workspaces.iter().filter_map(|name| name.parse().ok());
        let beacon = Self {
            kind: json.kind,
            sent_ms: json.sent_ms,
            name: NodeName::neutralised(&json.name),
            port: json.port,
            workspaces: names.take(NAMES_MAX).collect(),
            workspaces_total: json.workspaces_total,
            catalogue: json.catalogue,
        };
        Ok((key, beacon))
    }
}

/// The key in a datagram without any check; enough to recognise one's own.
pub(super) fn claimed_key(datagram: &[u8]) -> Option<PublicKey> {
    parts(datagram).map(|(key, _, _)| key)
}

fn parts(datagram: &[u8]) -> Option<(PublicKey, &[u8], &[u8])> {
    let body = datagram.strip_prefix(MAGIC).filter(|_| datagram.len() <= DATAGRAM_BYTES_MAX)?;
    let (key, body) = body.split_first_chunk::<32>()?;
    let (signature, packed) = body.split_first_chunk::<64>()?;
    Some((PublicKey(*key), signature, packed))
}

/// The hash of a list of names: the beginning of the BLAKE3 value of the names, sorted, each with a line end.
pub(super) fn catalogue_hash(names: &[WorkspaceName]) -> u64 {
    let mut sorted: Vec<_> = names.iter().map(WorkspaceName::as_str).collect();
    sorted.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for name in sorted {
        hasher.update(name.as_bytes());
        hasher.update(b"\n");
    }
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk().map_or(0, |start| u64::from_le_bytes(*start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn beacon(names: usize) -> Beacon {
        let workspaces: Vec<WorkspaceName> = (0..names)
            .map(|i| format!("w{i}-{}", &blake3::hash(&i.to_le_bytes()).to_hex()[..20]).parse().unwrap())
            .collect();
        Beacon {
            kind: Kind::Query,
            sent_ms: 1_700_000_000_000,
            name: "Zoë's laptop".parse().unwrap(),
            port: 37778,
            workspaces_total: names as u32,
            catalogue: catalogue_hash(&workspaces),
            workspaces,
        }
    }

    #[test]
    fn a_beacon_is_read_back() {
        let identity = Identity::generate().unwrap();
        for names in [0, 1, 10] {
            let datagram = beacon(names).encode(&identity);
            assert_eq!(Beacon::decode(&datagram), Ok((identity.public_key(), beacon(names))));
            assert_eq!(claimed_key(&datagram), Some(identity.public_key()));
        }
    }

    #[test]
    fn names_that_do_not_fit_are_counted() {
        let identity = Identity::generate().unwrap();
        let datagram = beacon(1000).encode(&identity);
        assert!((1100..=DATAGRAM_BYTES_MAX).contains(&datagram.len()), "{}", datagram.len());
        let (_, read) = Beacon::decode(&datagram).unwrap();
        assert!((20..1000).contains(&read.workspaces.len()), "{}", read.workspaces.len());
        assert_eq!(read.workspaces[..], beacon(1000).workspaces[..read.workspaces.len()]);
        assert_eq!((read.workspaces_total, read.catalogue), (1000, beacon(1000).catalogue));
    }

    /// A datagram with a valid signature and this content.
    fn signed(identity: &Identity, packed: &[u8]) -> Vec<u8> {
        let signature = identity.sign(CONTEXT, packed);
        [MAGIC.as_slice(), &identity.public_key().0, &signature, packed].concat()
    }

    #[test]
    fn what_is_not_a_beacon_is_refused() {
        let identity = Identity::generate().unwrap();
        let good = beacon(3).encode(&identity);
        for at in [4, 40, 101, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Beacon::decode(&bad), Err(BadBeacon::Signature), "byte {at}");
        }
        let mut version = good.clone();
        version[3] = 2;
        assert_eq!(Beacon::decode(&version), Err(BadBeacon::Foreign));
        assert_eq!(Beacon::decode(&good[..SIGNED_AT - 1]), Err(BadBeacon::Foreign));
        assert_eq!(Beacon::decode(&[]), Err(BadBeacon::Foreign));
        let bomb = zstd::bulk::compress(&vec![b' '; 1 << 24], 19).unwrap();
        let pack = |json: &str| zstd::bulk::compress(json.as_bytes(), 3).unwrap();
        let no_port = r#"{"kind":"announce","sent_ms":1,"name":"a","port":0,"workspaces":[],"workspaces_total":0,"catalogue":0}"#;
        let deep = "[".repeat(10_000);
        for packed in [b"".to_vec(), b"x".to_vec(), bomb, pack("{}"), pack(no_port), pack(&deep)] {
            let datagram = signed(&identity, &packed);
            if datagram.len() <= DATAGRAM_BYTES_MAX {
                assert_eq!(Beacon::decode(&datagram), Err(BadBeacon::Content));
            } else {
                assert_eq!(Beacon::decode(&datagram), Err(BadBeacon::Foreign));
            }
        }
    }

    #[test]
    fn somebody_elses_text_is_neutralised() {
        let identity = Identity::generate().unwrap();
        let json = r#"{"kind":"announce","sent_ms":1,"name":"\u001b[2Ja\nb","port":1,"later":{},
                       "workspaces":["good","../bad","a b","\u001b"],"workspaces_total":9,"catalogue":0}"#;
        let datagram = signed(&identity, &zstd::bulk::compress(json.as_bytes(), 3).unwrap());
        let (_, read) = Beacon::decode(&datagram).unwrap();
        assert_eq!(read.name.as_str(), "[2Jab");
        assert_eq!(read.workspaces, ["good".parse().unwrap()]);
    }

    #[test]
    fn the_catalogue_hash_is_of_the_set() {
        let names = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(catalogue_hash(&names(&["a", "b"])), catalogue_hash(&names(&["b", "a"])));
        assert_ne!(catalogue_hash(&names(&["a", "b"])), catalogue_hash(&names(&["ab"])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..1300), ours: bool) {
            let identity = Identity::generate().unwrap();
            let datagram = if ours { signed(&identity, &bytes) } else { bytes };
            prop_assert!(Beacon::decode(&datagram).is_err());
        }
    }
}
