//! Every decoder over its corpus and over a bounded number of random changes to it, on the stable toolchain. The same targets
//! run under `cargo fuzz` for as long as one likes; `tests/README.md` says how.

use std::{
    env, fs, panic,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use twinshare_tests::decoders::{DECODERS, Decoder, seeds};
use twinshare_tests::random::Random;

/// Changed inputs per decoder; one that is slow stops at the time bound instead.
const CHANGES: u64 = 20_000;
const TIME_BOUND: Duration = Duration::from_secs(5);

/// Set to a number to repeat a run; printed with every failure.
const SEED_VARIABLE: &str = "TWINSHARE_FUZZ_SEED";
/// Set to rewrite the corpora after a format changed on purpose.
const WRITE_VARIABLE: &str = "TWINSHARE_WRITE_SEEDS";

fn corpus(decoder: &Decoder) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(decoder.name)
}

#[test]
fn the_corpora_are_what_the_encoders_write() -> Result<()> {
    for decoder in DECODERS {
        let dir = corpus(decoder);
        for (number, seed) in seeds(decoder.name).into_iter().enumerate() {
            let path = dir.join(number.to_string());
            if env::var_os(WRITE_VARIABLE).is_some() {
                fs::create_dir_all(&dir)?;
                fs::write(&path, &seed)?;
            }
            let stored = fs::read(&path)
                .with_context(|| format!("{}: set {WRITE_VARIABLE}=1 to write it", path.display()))?;
            ensure!(
                stored == seed,
                "{} differs: a format changed, or set {WRITE_VARIABLE}=1",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn every_decoder_has_its_fuzz_target_and_no_target_is_without() -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(dir.join("Cargo.toml"))?;
    for decoder in DECODERS {
        let name = decoder.name;
        let target = fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs")))
            .with_context(|| name.to_owned())?;
        ensure!(target.contains(&format!("\"{name}\"")), "the target {name} runs another decoder");
        ensure!(
            manifest.contains(&format!("name = \"{name}\"")),
            "tests/fuzz/Cargo.toml does not list {name}"
        );
    }
    ensure!(
        fs::read_dir(dir.join("fuzz_targets"))?.count() == DECODERS.len(),
        "there are targets without a decoder"
    );
    Ok(())
}

#[test]
fn no_decoder_breaks_on_its_corpus_or_on_changes_to_it() -> Result<()> {
    let seed = match env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{SEED_VARIABLE}={text}"))?,
        Err(_) => 0x7477_696e,
    };
    for decoder in DECODERS {
        let corpus = seeds(decoder.name);
        let mut random = Random::new(seed);
        corpus.iter().try_for_each(|input| attempt(decoder, input, seed))?;
        let started = Instant::now();
        for _ in 0..CHANGES {
            if started.elapsed() > TIME_BOUND {
                break;
            }
            attempt(decoder, &changed(&corpus, &mut random), seed)?;
        }
    }
    Ok(())
}

fn attempt(decoder: &Decoder, input: &[u8], seed: u64) -> Result<()> {
    let ran = panic::catch_unwind(|| (decoder.run)(input));
    ensure!(ran.is_ok(), "{} breaks on {} ({SEED_VARIABLE}={seed})", decoder.name, input.escape_ascii());
    Ok(())
}

/// One of the corpus with one to four changes.
fn changed(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        change(&mut input, corpus, random);
    }
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let until = at + random.below(input.len() - at + 1).min(64);
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.byte(),
        // A variable-length integer far beyond anything honest.
        2 => drop(input.splice(at..at, [0xff; 9].into_iter().chain([1]))),
        3 => drop(input.splice(at..at, [random.byte()])),
        4 => drop(input.drain(at..until)),
        5 => input.truncate(at),
        6 => {
            let part = input[at..until].to_vec();
            drop(input.splice(at..at, part));
        }
        _ => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}
