//! Environments of a settled clone, at a path they were not made for: real ones of venv and uv, one as conda lays it out, inside
//! and outside of `twinshare run`.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use twinshare_tests::{
    environment::{self, INTERPRETER},
    host::{Disk, Host, ORDINARY, write_file},
    link::{Link, Rate},
    node::{User, Who},
    wait,
};

const BOUND: Duration = Duration::from_secs(180);

/// Makes a wheel with a module and a console script: `python3 SCRIPT DIRECTORY`.
const WHEEL: &str = r#"
import base64, hashlib, sys, zipfile
files = {
    "greeting.py": "import sys\ndef main():\n    print('hello from', sys.prefix, 'by', sys.base_prefix)\n",
    "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
    "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
}
digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
record = "".join(f"{name},sha256={digest(text)},{len(text)}\n" for name, text in files.items())
files["greeting-1.0.dist-info/RECORD"] = record + "greeting-1.0.dist-info/RECORD,,\n"
with zipfile.ZipFile(sys.argv[1] + "/greeting-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

/// Compares every installed package's list of files with its files: `python SCRIPT`.
const AGREES: &str = r#"
import base64, hashlib, importlib.metadata as metadata
for package in metadata.distributions():
    for file in package.files or ():
        if file.hash and file.locate().suffix != ".pyc":
            content = file.locate().read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (file.hash.value, file.size) == (digest, len(content)), (package.name, file)
print("all agree")
"#;

/// Ada's project, with environments that all lead out of it.
fn build(host: &Host, project: &str, owner: u32) -> Result<()> {
    let python = format!("{INTERPRETER}/bin/{}", environment::interpreter(host)?);
    let wheels = environment::copy_wheels(host, python.rsplit('/').next().unwrap_or_default())?;
    let run = |words: &[&str]| host.program(words[0]).args(&words[1..]).run(BOUND)?.success();
    run(&["/usr/bin/python3", "-c", WHEEL, &wheels])?;
    write_file(host, &format!("{project}/src/mine.py"), b"import greeting\nprint('mine', __file__)\n")?;
    write_file(host, &format!("{project}/notes.txt"), format!("{project}\n").as_bytes())?;
    // venv and pip, with a package in editable form, whose `.pth` file setuptools would write.
    let venv = format!("{project}/venv");
    run(&[&python, "-m", "venv", &venv])?;
    let pip = format!("{venv}/bin/pip");
    run(&[&pip, "install", "--quiet", "--no-index", "--find-links", &wheels, "greeting", "uv"])?;
    let packages =
        run(&[&format!("{venv}/bin/python"), "-c", "import site; print(site.getsitepackages()[0])"])?;
    write_file(
        host,
        &format!("{}/__editable__.mine-1.pth", packages.trim()),
        format!("{project}/src\n").as_bytes(),
    )?;
    // uv.
    let (uv, other) = (format!("{venv}/bin/uv"), format!("{project}/.venv"));
    run(&[&uv, "--offline", "--no-cache", "venv", "--quiet", "--python", &python, &other])?;
    run(&[
        &uv,
        "--offline",
        "--no-cache",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--find-links",
        &wheels,
        "--python",
        &format!("{other}/bin/python"),
        "greeting",
    ])?;
    conda(host, &format!("{project}/conda"))?;
    run(&["chown", "-R", &format!("{owner}:{owner}"), project]).map(drop)
}

/// As conda leaves a package that was built for a placeholder.
fn conda(host: &Host, prefix: &str) -> Result<()> {
    let script = format!("#!{prefix}/bin/sh -e\necho tool in {prefix}\n");
    write_file(host, &format!("{prefix}/bin/tool"), script.as_bytes())?;
    write_file(host, &format!("{prefix}/etc/tool.conf"), format!("prefix={prefix}\n").as_bytes())?;
    write_file(host, &format!("{prefix}/lib/large"), format!("{prefix}/share\0x").as_bytes())?;
    host.program("sh")
        .args(["-ec", &format!("cp /bin/sh {prefix}/bin/sh; chmod 755 {prefix}/bin/*")])
        .run(BOUND)?
        .success()?;
    let listed = |path: &str, mode: &str| {
        format!(
            "{{\"_path\": \"{path}\", \"file_mode\": \"{mode}\", \"prefix_placeholder\": \"/placeholder\"}}"
        )
    };
    let paths = [listed("bin/tool", "text"), listed("etc/tool.conf", "text"), listed("lib/large", "binary")];
    let document = format!("{{\"name\": \"tool\", \"paths_data\": {{\"paths\": [{}]}}}}", paths.join(", "));
    write_file(host, &format!("{prefix}/conda-meta/tool-1-0.json"), document.as_bytes())
}

/// A clone of Ada's project at Ben's.
struct Settled<'u, 'host> {
    ben: &'u User<'host>,
    project: &'u str,
    at: String,
    /// Where the node keeps the interpreter.
    kept: String,
    document: Value,
}

impl Settled<'_, '_> {
    /// What a command of a shell prints that was started in the clone, outside of any run.
    fn outside(&self, script: &str) -> Result<String> {
        self.ben.program("bash").args(["-ec", script]).dir(&self.at).run(BOUND)?.success()
    }

    fn inside(&self, words: &[&str]) -> Result<String> {
        self.ben.run(&[&["run", &self.at, "--"], words].concat())
    }

    fn works(&self) -> Result<()> {
        let (at, kept) = (&self.at, &self.kept);
        for name in ["venv", ".venv"] {
            let hello = format!("hello from {at}/{name} by {kept}\n");
            let activated = self.outside(&format!("source {name}/bin/activate; greet; echo $VIRTUAL_ENV"))?;
            ensure!(activated == format!("{hello}{at}/{name}\n"), "{activated}");
            let script = self.outside(&format!("cd /; {at}/{name}/bin/greet"))?;
            ensure!(script == hello, "{script}");
            let agrees = self
                .ben
                .program(format!("{at}/{name}/bin/python"))
                .args(["-c", AGREES])
                .run(BOUND)?
                .success()?;
            ensure!(agrees == "all agree\n", "{agrees}");
            // In a run both paths of the trees are there.
            for top in [at.as_str(), self.project] {
                let found = self.inside(&[&format!("{top}/{name}/bin/greet")])?;
                ensure!(found == hello, "{found}");
                let found = self.inside(&[
                    &format!("{top}/{name}/bin/python"),
                    "-c",
                    "import greeting; greeting.main()",
                ])?;
                ensure!(found == format!("hello from {top}/{name} by {kept}\n"), "{found}");
            }
        }
        let mine = self
            .outside("source venv/bin/activate; cd /; python -c 'import mine'; pip --version; pip check")?;
        ensure!(
            mine.contains(&format!("mine {at}/src/mine.py")) && mine.contains("No broken requirements"),
            "{mine}"
        );
        ensure!(mine.contains(&format!("from {at}/venv/lib/")), "{mine}");
        let inside = self.inside(&[&format!("{}/venv/bin/pip", self.project), "--version"])?;
        ensure!(inside.contains(&format!("from {at}/venv/lib/")), "{inside}");
        // It can be worked with: pip uninstalls what it knows by its list of files, and makes new scripts.
        self.outside(
            "source venv/bin/activate; pip uninstall --quiet --yes greeting; ! test -e venv/bin/greet",
        )?;
        let needs = self.ben.twinshare(&["run", &self.at, "--", "greet"]).run(BOUND)?;
        ensure!(!String::from_utf8_lossy(&needs.stderr).contains("missing here"), "{}", needs.told());
        ensure!(needs.success()? == format!("hello from {at}/.venv by {kept}\n"));
        let conda = self.outside("conda/bin/tool; cat conda/etc/tool.conf")?;
        ensure!(conda == format!("tool in {at}/conda\nprefix={at}/conda\n"), "{conda}");
        ensure!(
            self.inside(&[&format!("{}/conda/bin/tool", self.project)])? == format!("tool in {at}/conda\n")
        );
        ensure!(self.outside("cat notes.txt")? == format!("{}\n", self.project));
        Ok(())
    }

    fn is_listed(&self, said: &str) -> Result<()> {
        let relocation = &self.document["receipt"]["relocation"];
        let edits = relocation["edits"].as_array().context("no edits")?;
        let kind = |path: &str| {
            let path = format!("{}/{path}", self.at);
            edits.iter().find(|edit| edit["path"] == *path).and_then(|edit| edit["kind"].as_str())
        };
        for (path, expected) in [
            ("venv/pyvenv.cfg", "configuration"),
            ("venv/bin/activate.fish", "activation"),
            ("venv/bin/greet", "script"),
            (".venv/bin/greet", "script"),
            (".venv/bin/python", "link"),
            ("conda/bin/tool", "conda_text"),
        ] {
            ensure!(kind(path) == Some(expected), "{path}: {:?}", kind(path));
        }
        ensure!(relocation["edited"] == edits.len() && relocation["left"] == 1, "{relocation}");
        let left = &relocation["left_alone"][0];
        ensure!(left["path"] == format!("{}/conda/lib/large", self.at), "{left}");
        let more = format!("{} files and links, so that environments work here:", edits.len());
        ensure!(said.contains(&more) && said.contains("conda/lib/large: the new path is longer"), "{said}");
        let shown = self.ben.run(&["workspace", "show", &self.at])?;
        let line = format!("venv/bin/greet: {} -> {}", self.project, self.at);
        ensure!(shown.contains(&line) && shown.contains("venv/pyvenv.cfg: "), "{shown}");
        let status = self.ben.run(&["workspace", "status", &self.at])?;
        ensure!(status.contains(&format!("{} edited for its path here, 1 left", edits.len())), "{status}");
        let listed = self.ben.json(&["workspace", "list"])?.to_string();
        ensure!(!listed.contains("venv/bin/greet"), "{listed}");
        Ok(())
    }
}

fn story(who: Who) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let _link = Link::between(&ada, &ben, 1, Rate::Mbit(1000))?;
    let (a, b) = (User::new(&ada, who), User::new(&ben, who));
    let project = format!("{}/all/project", a.home());
    build(&ada, &project, if who == Who::Root { 0 } else { ORDINARY.1 })?;
    tell(&a, &b, &project).with_context(|| format!("on ada:\n{}\non ben:\n{}", a.log(), b.log()))
}

fn tell(a: &User<'_>, b: &User<'_>, project: &str) -> Result<()> {
    let (mut ada_node, _ben_node) = (a.foreground()?, b.foreground()?);
    a.run(&["workspace", "create", project, "--name", "project"])?;
    a.run(&["workspace", "share", "project", "--open"])?;
    wait::until_true("the workspace to be listed", BOUND, || {
        Ok(b.run(&["workspace", "list", "--remote"])?.contains("project"))
    })?;
    let at = |name: &str| format!("{}/clones/{name}", b.home());
    for (name, options) in [("elsewhere", &[][..]), ("as-it-was", &["--no-relocate"])] {
        b.run(&[&["workspace", "clone", "project", &at(name)], options].concat())?;
    }
    let settled = |name: &str| {
        let said = b.run(&["workspace", "wait", &at(name), "--timeout", "100"])?;
        wait::until_true("the clone to settle", BOUND, || {
            Ok(b.json(&["workspace", "status", &at(name)])?["state"] == "settled")
        })?;
        Ok::<_, anyhow::Error>((said, b.json(&["workspace", "show", &at(name)])?))
    };
    let ((said, document), (silent, untouched)) = (settled("elsewhere")?, settled("as-it-was")?);
    ada_node.kill();
    let kept = document["roots"][1]["local"].as_str().context("no companion")?.to_owned();
    ensure!(!b.host().path(INTERPRETER).exists());
    let clone = Settled { ben: b, project, at: at("elsewhere"), kept, document };
    clone.is_listed(&said)?;
    clone.works()?;

    ensure!(untouched["receipt"].get("relocation").is_none() && !silent.contains("edited"), "{untouched}");
    let at = at("as-it-was");
    let link = fs::read_link(b.host().path(format!("{at}/.venv/bin/python")))?;
    ensure!(link.starts_with(Path::new(INTERPRETER)), "{link:?}");
    let sums = |user: &User<'_>, directory: &str| {
        let script = "find . -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum";
        user.program("sh").args(["-c", script]).dir(directory).env("LC_ALL", "C").run(BOUND)?.success()
    };
    let (here, there) = (sums(b, &at)?, sums(a, project)?);
    ensure!(here == there, "on ada:\n{there}\non ben:\n{here}");
    let greet = b.run(&["run", &at, "--", &format!("{project}/.venv/bin/greet")])?;
    ensure!(greet == format!("hello from {project}/.venv by {INTERPRETER}\n"), "{greet}");
    Ok(())
}

#[test]
fn roots_environments_work_where_the_clone_lies() -> Result<()> {
    story(Who::Root)
}

#[test]
fn an_ordinary_users_environments_work_where_the_clone_lies() -> Result<()> {
    story(Who::Ordinary)
}
