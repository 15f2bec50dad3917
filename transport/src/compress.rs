//! Compression of runs: only where a sample shows a gain. Whether the link makes it worth while, [`crate::pace`] knows.
//!
//! zstd's fastest level packs 0.33 GB/s on one core and makes half to a quarter of source code and libraries; trained
//! models, archives and media stay as they are. Looking at a sample costs a fiftieth of packing the run in vain.

/// Runs below this size are sent as they are: there is little to win.
const RUN_BYTES_MIN: usize = 4 * 1024;

/// Bytes of a sample.
const SAMPLE_BYTES: usize = 4 * 1024;

/// The fastest of zstd's regular levels: higher ones cost more time than the links save for which packing pays.
const LEVEL: i32 = 1;

/// What must be saved at least: one part in this many. Below it, unpacking costs more than it saves.
const GAIN_DIVISOR: usize = 8;

/// True when a sample from the middle of `bytes` becomes smaller. The middle, because files begin with headers that
/// pack well whatever follows.
pub(crate) fn may_gain(bytes: &[u8]) -> bool {
    if bytes.len() < RUN_BYTES_MIN {
        return false;
    }
    let start = (bytes.len() - SAMPLE_BYTES) / 2;
    compress(&bytes[start..start + SAMPLE_BYTES]).is_some()
}

/// `bytes` packed, where that saves enough.
pub(crate) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let packed = zstd::bulk::compress(bytes, LEVEL).ok()?;
    (packed.len() <= bytes.len() - bytes.len() / GAIN_DIVISOR).then_some(packed)
}

/// What `packed` unpacks to; `None` where it is not zstd, or holds more than `bytes_max`.
pub(crate) fn decompress(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    zstd::bulk::decompress(packed, bytes_max).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    #[test]
    fn what_gains_is_packed_and_comes_back() {
        let text = "the quick brown fox\n".repeat(20_000).into_bytes();
        assert!(may_gain(&text));
        let packed = compress(&text).unwrap();
        assert!(packed.len() < text.len() / 4);
        assert_eq!(decompress(&packed, text.len()), Some(text.clone()));
        assert_eq!(decompress(&packed, text.len() - 1), None);
    }

    #[test]
    fn what_does_not_gain_is_left_alone() {
        let noise = noise(256 * 1024);
        assert!(!may_gain(&noise));
        assert_eq!(compress(&noise), None);
        assert!(!may_gain(&[0; RUN_BYTES_MIN - 1]));
    }

    #[test]
    fn a_compressible_header_does_not_deceive() {
        let mut bytes = noise(256 * 1024);
        bytes[..16 * 1024].fill(0);
        assert!(!may_gain(&bytes));
    }

    #[test]
    fn a_bomb_is_refused_without_taking_its_memory() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert_eq!(decompress(&bomb, 1 << 20), None);
        assert_eq!(decompress(b"not zstd", 1 << 20), None);
    }
}
