//! A colleague's environment as it really is: a project with a virtual environment whose interpreter lies elsewhere, numpy in
//! it, a program that uses both, and a model much larger than what one run touches.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    host::{Host, write_file},
    program::Ended,
    random::noise,
};

/// Where the interpreter lies: outside the project and outside `/usr`.
pub const INTERPRETER: &str = "/opt/python";

/// Bytes of the model; one run reads a few of its blocks.
pub const MODEL_BYTES: usize = 160 << 20;

/// Copying an interpreter and installing numpy reads and writes 150 MB.
const BOUND: Duration = Duration::from_secs(180);

/// Prints what it computed and the digest of every file it loaded, so that two runs can be compared byte by byte.
const PROGRAM: &[u8] = br#"import hashlib, os, sys
import numpy

here = os.path.dirname(os.path.abspath(__file__))
model = numpy.memmap(os.path.join(here, "model.bin"), dtype=numpy.uint8, mode="r")
third = len(model) // 3
print("python", sys.executable, sys.version_info[:2])
print("numpy", numpy.__version__, int((numpy.arange(12).reshape(3, 4) @ numpy.arange(4)).sum()))
print("model", len(model), hashlib.sha256(model[third : third + 100_000].tobytes()).hexdigest())
files = {m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
files |= {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line and "/usr/lib/" not in line and "/lib/x86" not in line}
for name in sorted(files):
    if name.startswith(("/opt/", here)):
        print(hashlib.sha256(open(name, "rb").read()).hexdigest(), name)
"#;

/// Builds the environment on `host` in the project directory `project`, for the user and group `owner`.
///
/// # Errors
/// When the machine lacks what it is made of; `tests/run` installs that.
pub fn build(host: &Host, project: &str, owner: u32) -> Result<()> {
    let python = interpreter(host)?;
    write_file(host, &format!("{project}/main.py"), PROGRAM)?;
    write_file(host, &format!("{project}/model.bin"), &noise(MODEL_BYTES, 11))?;
    let wheels = copy_wheels(host, &python)?;
    let venv = format!("{project}/.venv");
    host.program(format!("{INTERPRETER}/bin/{python}")).args(["-m", "venv", &venv]).run(BOUND)?.success()?;
    host.program(format!("{venv}/bin/pip"))
        .args(["install", "--quiet", "--no-index", "--find-links", &wheels, "numpy"])
        .run(BOUND)?
        .success()?;
    host.program("chown").args(["-R", &format!("{owner}:{owner}"), project]).run(BOUND)?.success()?;
    Ok(())
}

/// Puts an interpreter where the environment of [`build`] has it, and says what it is called.
///
/// # Errors
/// As [`build`].
pub fn interpreter(host: &Host) -> Result<String> {
    let python = system_python(host)?;
    copy_interpreter(host, &python)?;
    Ok(python)
}

/// `python3.11` or whichever the machine has.
fn system_python(host: &Host) -> Result<String> {
    let version = "import sys; print('python%d.%d' % sys.version_info[:2])";
    Ok(host.program("/usr/bin/python3").args(["-c", version]).run(BOUND)?.success()?.trim().to_owned())
}

fn copy_interpreter(host: &Host, python: &str) -> Result<()> {
    let script = format!(
        "mkdir -p {INTERPRETER}/bin {INTERPRETER}/lib
         cp -L /usr/bin/{python} {INTERPRETER}/bin/{python}
         cp -a /usr/lib/{python} {INTERPRETER}/lib/{python}
         rm -rf {INTERPRETER}/lib/{python}/test"
    );
    host.program("sh").args(["-ec", &script]).run(BOUND).and_then(Ended::success).map(drop)
}

/// Test hosts have no way out, so wheels are fetched by `tests/run` and copied to them.
///
/// # Errors
/// When there are none.
pub fn copy_wheels(host: &Host, python: &str) -> Result<String> {
    let from = match env::var_os("TWINSHARE_TEST_WHEELS") {
        Some(given) => PathBuf::from(given),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/test-wheels").join(python),
    };
    let to = "/tmp/wheels";
    fs::create_dir_all(host.path(to))?;
    let mut copied = 0;
    for wheel in
        fs::read_dir(&from).with_context(|| format!("{}: `tests/run --prepare` makes it", from.display()))?
    {
        let wheel = wheel?;
        if wheel.path().extension().is_some_and(|extension| extension == "whl") {
            fs::copy(wheel.path(), host.path(to).join(wheel.file_name()))?;
            copied += 1;
        }
    }
    ensure!(copied > 0, "{} holds no wheel: `tests/run --prepare` fetches it", from.display());
    Ok(to.to_owned())
}
