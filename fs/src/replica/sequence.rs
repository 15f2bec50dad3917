//! Telling sequential reading from random reading, and how far to read ahead of it.
//!
//! A file may be read by several readers at once, so a few positions are followed. Reading on from one of them opens
//! a window ahead that doubles each time it is extended; a read elsewhere starts a new position, without a window.
//! The window is asked for in quarters, so that several requests are outstanding while the reader moves through it.

use std::ops::Range;

/// The first window: 256 KiB.
const WINDOW_MIN: u64 = 4;
/// The largest window: 32 MiB, a tenth of a second at 2.5 Gbit/s.
pub(super) const WINDOW_MAX: u64 = 512;
/// How late a read may come and still belong to a position: the kernel reads up to 4 MiB ahead itself, in requests
/// that overtake each other. Forward, a read may be as far away as the window reaches.
const LATE_MAX: u64 = 64;
/// Positions followed per file; the one not used for longest makes room.
const POSITIONS: usize = 4;

/// The positions of one file's readers.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The most recently used first.
    positions: Vec<Position>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    /// The block after the last one read.
    next: u64,
    /// The block after the last one asked for ahead.
    ahead: u64,
    window: u64,
}

impl Sequence {
    /// Notes that `read` was read of a file of `blocks` blocks. Returns what should be asked for now; whoever does
    /// ask says so with [`asked`](Self::asked).
    pub(super) fn note(&mut self, read: Range<u64>, blocks: u64) -> Option<Range<u64>> {
        let continues = |position: &Position| {
            (position.next.saturating_sub(LATE_MAX)..=position.next + position.window).contains(&read.start)
        };
        let Some(at) = self.positions.iter().position(continues) else {
            self.positions.truncate(POSITIONS - 1);
            self.positions.insert(0, Position { next: read.end, ahead: read.end, window: 0 });
            return None;
        };
        self.positions[..=at].rotate_right(1);
        let position = &mut self.positions[0];
        if read.end <= position.next {
            return None;
        }
        position.next = read.end;
        position.ahead = position.ahead.max(read.end);
        position.window = position.window.max(WINDOW_MIN);
        let have = position.ahead - position.next;
        // Extending by at least a quarter keeps the number of requests small.
        if have > position.window - position.window / 4 {
            return None;
        }
        let wanted = position.ahead..(position.next + position.window).min(blocks);
        (!wanted.is_empty()).then_some(wanted)
    }

    /// Tells that the blocks up to `end`, as [`note`](Self::note) proposed just before, have been asked for.
    pub(super) fn asked(&mut self, end: u64) {
        if let Some(position) = self.positions.first_mut() {
            position.ahead = position.ahead.max(end);
            position.window = (position.window * 2).min(WINDOW_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u64 = 10_000;

    /// Reads the ranges and collects what is asked for ahead.
    fn ahead(reads: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let mut sequence = Sequence::default();
        let mut asked = Vec::new();
        for read in reads {
            if let Some(range) = sequence.note(read, BLOCKS) {
                sequence.asked(range.end);
                asked.push(range);
            }
        }
        asked
    }

    #[test]
    fn the_first_read_asks_for_nothing_more() {
        assert_eq!(ahead(std::iter::once(0..2)), []);
        assert_eq!(ahead([0..2, 0..2, 1..2]), [], "reading the same again is no sequence");
    }

    #[test]
    fn windows_double_while_reading_goes_on() {
        let asked = ahead((0..500).map(|i| i * 2..i * 2 + 2));
        assert_eq!(asked[..3], [4..8, 8..14, 14..24]);
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "gaps or overlaps: {asked:?}");
        let last = asked.last().unwrap().clone();
        assert!(last.end > 1000 + WINDOW_MAX / 2 && last.end - last.start <= WINDOW_MAX, "{last:?}");
        let quarters = asked.iter().filter(|range| range.end - range.start >= WINDOW_MAX / 4).count();
        assert!(quarters >= 2, "{asked:?}");
    }

    #[test]
    fn random_reads_ask_for_nothing() {
        assert_eq!(ahead((0..100).map(|i| (i * 7919) % BLOCKS).map(|at| at..at + 1)), []);
    }

    #[test]
    fn reads_that_overtake_each_other_are_a_sequence() {
        let order = [2, 0, 1, 5, 3, 4, 8, 6, 7, 9];
        let asked = ahead(order.map(|i: u64| i * 16..i * 16 + 16));
        assert!(asked.last().unwrap().end > 160, "{asked:?}");
    }

    #[test]
    fn several_readers_are_followed() {
        let asked = ahead((0..50).flat_map(|i| [i..i + 1, 3000 + i..3001 + i, 6000 + i..6001 + i]));
        for start in [0, 3000, 6000] {
            let end = asked
                .iter()
                .filter(|range| (start..start + 3000).contains(&range.start))
                .map(|r| r.end)
                .max();
            assert!(end.unwrap_or(0) > start + 50, "{asked:?}");
        }
    }

    #[test]
    fn nothing_is_asked_for_beyond_the_end() {
        let asked = ahead((BLOCKS - 20..BLOCKS).map(|at| at..at + 1));
        assert_eq!(asked.last().unwrap().end, BLOCKS);
    }
}
