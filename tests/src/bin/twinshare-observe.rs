//! Describes a directory tree on standard output, for tests that have to look from inside a host: `twinshare-observe DIR`.

use std::{env, io::Write as _};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let root = env::args().nth(1).context("usage: twinshare-observe DIR")?;
    let tree = twinshare_tests::tree::observe(&root)?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &tree)?;
    out.flush().context("writing the description")
}
