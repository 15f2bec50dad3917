//! Which blocks of one file are here, compactly.
//!
//! Files of up to 64 blocks take one word. Larger ones take 512 bytes for each stretch of 4,096 blocks (256 MiB) that
//! is partly here, and nothing but a map entry for a stretch that is wholly here or wholly missing: a fetched block
//! costs at most 1/128 of the disk it takes.

use std::collections::BTreeMap;
use std::ops::Range;

const WORD: u64 = 64;
const WORDS: usize = 64;
const STRETCH: u64 = WORD * WORDS as u64;

/// A set of block numbers of a file with a known number of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockSet {
    blocks: u64,
    present: u64,
    bits: Bits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bits {
    /// At most 64 blocks.
    Few(u64),
    /// Stretches with at least one block; the others are missing.
    Many(BTreeMap<u64, Stretch>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stretch {
    Whole,
    Part(Box<[u64; WORDS]>),
}

impl BlockSet {
    /// The empty set for a file of `blocks` blocks.
    pub(super) fn empty(blocks: u64) -> Self {
        let bits = if blocks <= WORD { Bits::Few(0) } else { Bits::Many(BTreeMap::new()) };
        Self { blocks, present: 0, bits }
    }

    /// Every block of a file of `blocks` blocks.
    pub(super) fn full(blocks: u64) -> Self {
        let mut set = Self::empty(blocks);
        set.insert(0..blocks);
        set
    }

    /// How many blocks are in it.
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// True when `block` is in it.
    pub(super) fn contains(&self, block: u64) -> bool {
        match &self.bits {
            Bits::Few(bits) => block < self.blocks && bits >> block & 1 == 1,
            Bits::Many(stretches) => match stretches.get(&(block / STRETCH)) {
                None => false,
                Some(Stretch::Whole) => block < self.blocks,
                Some(Stretch::Part(words)) => {
                    let at = block % STRETCH;
                    words[(at / WORD) as usize] >> (at % WORD) & 1 == 1
                }
            },
        }
    }

    /// True when all of `range` is in it.
    pub(super) fn contains_all(&self, range: Range<u64>) -> bool {
        self.present == self.blocks && range.end <= self.blocks
            || range.into_iter().all(|block| self.contains(block))
    }

    /// The first block of `range` that is not in it. Costs the stretches of `range` that are wholly or partly in it.
    pub(super) fn first_absent(&self, range: Range<u64>) -> Option<u64> {
        let mut at = range.start;
        while at < range.end.min(self.blocks) {
            let next = match &self.bits {
                Bits::Few(bits) => at + u64::from((bits >> at).trailing_ones()),
                Bits::Many(stretches) => match stretches.get(&(at / STRETCH)) {
                    None => return Some(at),
                    Some(Stretch::Whole) => (at / STRETCH + 1) * STRETCH,
                    Some(Stretch::Part(words)) => {
                        let (word, bit) = (at % STRETCH / WORD, at % WORD);
                        at + u64::from((words[word as usize] >> bit).trailing_ones())
                    }
                },
            };
            if next == at {
                return Some(at);
            }
            at = next;
        }
        Some(at.min(self.blocks).max(range.start)).filter(|at| *at < range.end)
    }

    /// The first block of `range` that is in it. Costs the stretches of `range` that are partly in it.
    pub(super) fn first_present(&self, range: Range<u64>) -> Option<u64> {
        let end = range.end.min(self.blocks);
        let mut at = range.start;
        while at < end {
            let found = match &self.bits {
                Bits::Few(bits) => Some((bits >> at).trailing_zeros()).filter(|gap| u64::from(*gap) < WORD),
                Bits::Many(stretches) => {
                    let (number, stretch) = stretches.range(at / STRETCH..).next()?;
                    at = at.max(number * STRETCH);
                    match stretch {
                        Stretch::Whole => Some(0),
                        Stretch::Part(words) => {
                            let (word, bit) = (at % STRETCH / WORD, at % WORD);
                            Some((words[word as usize] >> bit).trailing_zeros())
                                .filter(|gap| u64::from(*gap) < WORD)
                        }
                    }
                }
            };
            match found {
                Some(gap) => return Some(at + u64::from(gap)).filter(|at| *at < end),
                None => at = (at / WORD + 1) * WORD,
            }
        }
        None
    }

    /// Adds `range`, as far as the file has it; returns how many blocks were new.
    pub(super) fn insert(&mut self, range: Range<u64>) -> u64 {
        let range = range.start..range.end.min(self.blocks);
        let before = self.present;
        match &mut self.bits {
            Bits::Few(bits) => {
                *bits |= mask(range);
                self.present = u64::from(bits.count_ones());
            }
            Bits::Many(stretches) => {
                for number in range.start / STRETCH..range.end.div_ceil(STRETCH) {
                    let base = number * STRETCH;
                    let length = STRETCH.min(self.blocks - base);
                    let part = range.start.max(base) - base..range.end.min(base + length) - base;
                    self.present += insert_into(stretches, number, part, length);
                }
            }
        }
        self.present - before
    }

    /// How many blocks the file has.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Takes `range` out; returns how many blocks of it were there. Costs what is there of it, however long it is.
    pub(super) fn remove(&mut self, range: Range<u64>) -> u64 {
        let range = range.start..range.end.min(self.blocks);
        let before = self.present;
        if range.is_empty() {
            return 0;
        }
        match &mut self.bits {
            Bits::Few(bits) => {
                *bits &= !mask(range);
                self.present = u64::from(bits.count_ones());
            }
            Bits::Many(stretches) => {
                let numbers = range.start / STRETCH..range.end.div_ceil(STRETCH);
                for (number, stretch) in stretches.range_mut(numbers) {
                    let base = number * STRETCH;
                    let length = STRETCH.min(self.blocks - base);
                    let part = range.start.max(base) - base..range.end.min(base + length) - base;
                    self.present -= remove_from(stretch, part, length);
                }
                stretches.retain(|_, stretch| !stretch.is_empty());
            }
        }
        before - self.present
    }

    /// Makes it the set of a file that was cut to `blocks` blocks.
    pub(super) fn cut(&mut self, blocks: u64) {
        if blocks >= self.blocks {
            return;
        }
        self.remove(blocks..self.blocks);
        self.blocks = blocks;
        let Bits::Many(stretches) = &mut self.bits else { return };
        if blocks <= WORD {
            self.bits = Bits::Few(stretches.get(&0).map_or(0, |stretch| stretch.words(WORD)[0]));
            return;
        }
        // The last stretch may be shorter now, and whole.
        let last = (blocks - 1) / STRETCH;
        if let Some(stretch) = stretches.get_mut(&last)
            && stretch.count(STRETCH) == blocks - last * STRETCH
        {
            *stretch = Stretch::Whole;
        }
    }
}

impl Stretch {
    /// Its words, those of a whole stretch of `length` blocks among them.
    fn words(&self, length: u64) -> [u64; WORDS] {
        match self {
            Self::Part(words) => **words,
            Self::Whole => {
                let mut words = [0; WORDS];
                for (word, base) in words.iter_mut().zip((0..length).step_by(WORD as usize)) {
                    *word = mask(0..WORD.min(length - base));
                }
                words
            }
        }
    }

    /// How many blocks of a stretch of `length` are here.
    fn count(&self, length: u64) -> u64 {
        match self {
            Self::Whole => length,
            Self::Part(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Part(words) if words.iter().all(|word| *word == 0))
    }
}

/// Takes `part` out of a stretch of `length` blocks; returns how many were there.
fn remove_from(stretch: &mut Stretch, part: Range<u64>, length: u64) -> u64 {
    let before = stretch.count(length);
    let mut words = stretch.words(length);
    for at in part.start / WORD..part.end.div_ceil(WORD) {
        let base = at * WORD;
        words[at as usize] &= !mask(part.start.max(base) - base..part.end.min(base + WORD) - base);
    }
    *stretch = Stretch::Part(Box::new(words));
    let removed = before - stretch.count(length);
    if removed == 0 && before == length {
        *stretch = Stretch::Whole;
    }
    removed
}

/// Adds `part` of a stretch of `length` blocks; returns how many were new.
fn insert_into(stretches: &mut BTreeMap<u64, Stretch>, number: u64, part: Range<u64>, length: u64) -> u64 {
    let empty = || Stretch::Part(Box::new([0; WORDS]));
    if part.is_empty() {
        return 0;
    }
    let stretch = stretches.entry(number).or_insert_with(empty);
    let Stretch::Part(words) = stretch else {
        return 0;
    };
    let count = |words: &[u64; WORDS]| words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
    let before = count(words);
    for at in part.start / WORD..part.end.div_ceil(WORD) {
        let base = at * WORD;
        words[at as usize] |= mask(part.start.max(base) - base..part.end.min(base + WORD) - base);
    }
    let after = count(words);
    if after == length {
        *stretch = Stretch::Whole;
    }
    after - before
}

/// A word with the bits of `range`, which lies within 0..64, set.
fn mask(range: Range<u64>) -> u64 {
    match range.end.saturating_sub(range.start) {
        0 => 0,
        count => (u64::MAX >> (WORD - count)) << range.start,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(
            blocks in prop_oneof![0..70u64, 4000..4200u64, 12_000..12_500u64],
            changes in prop::collection::vec((0..4u8, 0..12_600u64, 0..5000u64), 0..12),
        ) {
            let (mut set, mut model, mut blocks) = (BlockSet::empty(blocks), BTreeSet::new(), blocks);
            for (change, start, length) in changes {
                let range = start..(start + length).min(blocks);
                match change {
                    0 | 1 => {
                        let new = range.filter(|block| model.insert(*block)).count();
                        prop_assert_eq!(set.insert(start..start + length), new as u64);
                    }
                    2 => {
                        let gone = range.filter(|block| model.remove(block)).count();
                        prop_assert_eq!(set.remove(start..start + length), gone as u64);
                    }
                    _ => {
                        blocks = blocks.min(start);
                        model.retain(|block| *block < blocks);
                        set.cut(start);
                    }
                }
                prop_assert_eq!((set.present(), set.blocks()), (model.len() as u64, blocks));
            }
            for block in 0..blocks + 5 {
                prop_assert_eq!(set.contains(block), model.contains(&block), "{}", block);
            }
            for start in (0..blocks + 5).step_by(211) {
                let range = start..start + 5000;
                let absent = range.clone().find(|block| !model.contains(block));
                prop_assert_eq!(set.first_absent(range.clone()), absent, "{:?}", range);
                let present = range.clone().find(|block| model.contains(block));
                prop_assert_eq!(set.first_present(range.clone()), present, "{:?}", range);
            }
            prop_assert_eq!(set.contains_all(0..blocks), model.len() as u64 == blocks);
            set.insert(0..blocks);
            prop_assert!(set == BlockSet::full(blocks) && set.present() == blocks);
            prop_assert!(!set.contains(blocks) && !set.contains_all(0..blocks + 1));
        }
    }

    #[test]
    fn huge_files_cost_nothing_until_they_are_touched() {
        let mut set = BlockSet::empty(1 << 47);
        assert_eq!(set.insert((1 << 46)..(1 << 46) + 3), 3);
        assert!(set.contains_all((1 << 46)..(1 << 46) + 3) && !set.contains((1 << 46) + 3));
        assert_eq!(set.first_present(0..1 << 47), Some(1 << 46));
        assert_eq!(set.remove(0..1 << 46), 0);
        let Bits::Many(stretches) = &set.bits else { panic!("one word") };
        assert_eq!(stretches.len(), 1);
    }
}
