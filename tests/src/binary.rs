//! Which `twinshare` is under test: the one built from this very source, or a clear refusal.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};

/// The `twinshare` executable under test: `$TWINSHARE_BIN`, which `tests/run` sets after building it, or the one cargo builds
/// from this source now.
///
/// Asking cargo costs half a second when nothing changed, once per process, and is the only answer to "is it newer than every
/// source file it was made of" that stays right when files move.
///
/// # Errors
/// When the variable names no executable, or the build fails.
pub fn twinshare() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(message) => Err(anyhow!("{message}")),
    }
}

/// The `twinshare-observe` executable, which cargo builds together with this package's tests.
///
/// # Errors
/// When it is missing: the tests were not built by cargo.
pub(crate) fn observer() -> Result<PathBuf> {
    let path = profile_dir()?.join("twinshare-observe");
    ensure!(path.is_file(), "{} is missing: run the tests through cargo", path.display());
    Ok(path)
}

fn find() -> Result<PathBuf> {
    if let Some(given) = env::var_os("TWINSHARE_BIN") {
        let path = PathBuf::from(given);
        ensure!(path.is_file(), "TWINSHARE_BIN names {}, which is no file", path.display());
        return path.canonicalize().context("canonicalising TWINSHARE_BIN");
    }
    build()?;
    let path = profile_dir()?.join("twinshare");
    ensure!(path.is_file(), "cargo built twinshare, but {} is missing", path.display());
    Ok(path)
}

/// `target/<profile>`, two levels above the test executable.
fn profile_dir() -> Result<PathBuf> {
    let test = env::current_exe().context("finding the test executable")?;
    let dir = test
        .parent()
        .and_then(Path::parent)
        .context("the test executable lies outside a target directory")?;
    Ok(dir.to_owned())
}

/// What cargo inherits of our environment. The rest is left out: a test runner's own variables make build scripts run again.
const BUILD_ENVIRONMENT: [&str; 6] = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTFLAGS", "TMPDIR"];

fn build() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--workspace", "--bin", "twinshare", "--profile", profile, "--target-dir"])
        .arg(profile_dir()?.parent().context("no target directory")?)
        .current_dir(root)
        .env_clear()
        .envs(BUILD_ENVIRONMENT.iter().filter_map(|name| Some((name, env::var_os(name)?))))
        .output()
        .context("starting cargo")?;
    ensure!(built.status.success(), "building twinshare failed:\n{}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}
