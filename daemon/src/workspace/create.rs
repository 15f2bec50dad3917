//! Making a workspace of a directory.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{
    Detected, FILE_NAME, FileError, Requirement, Root, Roots, WorkspaceError, WorkspaceFile, WorkspaceName,
    check_place, detect, requirements,
};
use crate::home::Home;
use crate::registry::{Registry, RegistryError, WorkspaceRecord};

/// A workspace that was made, or was one already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// What the registry holds of it.
    pub record: WorkspaceRecord,
    /// What its file says.
    pub file: WorkspaceFile,
    /// True when the file was written now; one that was there stays as it is.
    pub file_written: bool,
    /// What was found outside of it. A file that was there already may name other companions.
    pub detected: Detected,
    /// What it needs from a machine, once the companions that were found are shared.
    pub requirements: Vec<Requirement>,
}

/// Why a directory was not made a workspace.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The directory cannot be one, or has a file that cannot be used.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The file says another name than the user.
    #[error("{path} names the workspace {in_file}, not {asked}: change it there, or leave the name out")]
    NameDiffers {
        /// The file.
        path: PathBuf,
        /// The name in it.
        in_file: WorkspaceName,
        /// The name asked for.
        asked: WorkspaceName,
    },
    /// The directory's name holds nothing that a workspace's can.
    #[error("no name for a workspace can be made of {directory}: choose one with --name")]
    NoName {
        /// The directory.
        directory: PathBuf,
    },
    /// The file cannot be written.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The registry refused it, or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Registers `directory` as a workspace and writes its file where there is none. Without `name`, it is the one in the
/// file, else the directory's own. Doing it again changes nothing.
///
/// Cancel safety: a dropped call may still write the file and register the workspace.
pub async fn create(
    home: &Home,
    registry: &Registry,
    directory: &Path,
    name: Option<WorkspaceName>,
) -> Result<Created, CreateError> {
    let (home, directory) = (home.clone(), directory.to_path_buf());
    let looked = tokio::task::spawn_blocking(move || look(&home, &directory, name)).await;
    let looked = looked.map_err(|_| RegistryError::Closed)??;
    registry
        .call(move |tables| {
            if let Some(found) = tables.workspace_in(&looked.directory)?.filter(|w| w.name != looked.name) {
                return Err(RegistryError::DirectoryTaken { directory: found.directory, name: found.name });
            }
            if let Some(found) = tables.workspace(&looked.name)?.filter(|w| w.directory != looked.directory) {
                return Err(RegistryError::NameTaken { name: found.name, directory: found.directory });
            }
            Ok(looked.write().and_then(|(looked, file, file_written)| {
                let record = tables.add_workspace(&looked.name, &looked.directory, SystemTime::now())?;
                let Looked { detected, requirements, .. } = looked;
                Ok(Created { record, file, file_written, detected, requirements })
            }))
        })
        .await?
}

/// What is known before anything is changed.
struct Looked {
    directory: PathBuf,
    name: WorkspaceName,
    file: Option<WorkspaceFile>,
    detected: Detected,
    requirements: Vec<Requirement>,
}

fn look(home: &Home, directory: &Path, asked: Option<WorkspaceName>) -> Result<Looked, CreateError> {
    let directory = check_place(directory, home).map_err(WorkspaceError::from)?;
    let file = match WorkspaceFile::load(&directory) {
        Ok(file) => Some(file),
        Err(FileError::Missing { .. }) => None,
        Err(error) => return Err(WorkspaceError::from(error).into()),
    };
    let name = match (&file, asked) {
        (Some(file), Some(asked)) if file.name != asked => {
            let path = directory.join(FILE_NAME);
            return Err(CreateError::NameDiffers { path, in_file: file.name.clone(), asked });
        }
        (Some(file), _) => file.name.clone(),
        (None, Some(asked)) => asked,
        (None, None) => WorkspaceName::of_directory(&directory)
            .ok_or_else(|| CreateError::NoName { directory: directory.clone() })?,
    };
    let detected = detect(&directory, home);
    let companions = detected.companions.iter().map(|companion| companion.path.clone());
    let trees = std::iter::once(directory.clone()).chain(companions).map(Root::in_place);
    let requirements = requirements(&Roots::new(trees));
    Ok(Looked { directory, name, file, detected, requirements })
}

impl Looked {
    /// Writes the file where there was none.
    fn write(mut self) -> Result<(Self, WorkspaceFile, bool), CreateError> {
        if let Some(file) = self.file.take() {
            return Ok((self, file, false));
        }
        let path = self.directory.join(FILE_NAME);
        let text = text(&self.name, &self.detected);
        let file = WorkspaceFile::parse(&text, &path).map_err(WorkspaceError::from)?;
        write_new(&path, &text).map_err(|source| CreateError::Write { path, source })?;
        Ok((self, file, true))
    }
}

/// Writes a file that must not exist; a failure leaves none.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first failure is the one to report.
        let _ = fs::remove_file(path);
    }
    written
}

/// The text of a new file.
fn text(name: &WorkspaceName, detected: &Detected) -> String {
    let mut text = format!(
        "# What this workspace is, for twinshare. Only `schema` and `name` are needed.\n\
         schema: 1\n\
         name: {}\n\
         \n\
         # What it is for, in a sentence that others see beside its name.\n\
         #description: \"\"\n\
         \n\
         # Directories outside this one that are shared with it, read-only.\n",
        quoted(name.as_str())
    );
    write_companions(&mut text, detected);
    text.push_str(
        "\n\
         # In what its commands run, and the command that runs when none is given.\n\
         #environments:\n\
         #- name: main\n\
         #  command: [python, run.py]\n\
         #  env: {EXAMPLE: value}\n\
         \n\
         # How whoever wrote this file would share it. Only `workspace share` on this machine lets anybody in.\n\
         #share:\n\
         #  open: false\n",
    );
    text
}

fn write_companions(text: &mut String, detected: &Detected) {
    let known = detected.companions.iter().filter_map(|found| Some((found.path.to_str()?, &found.why)));
    let mut lines = String::new();
    for (path, why) in known {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "- {}  # {}", quoted(path), why.escape_debug());
    }
    match lines.is_empty() {
        true => text.push_str("#companions:\n"),
        false => *text += &format!("companions:\n{lines}"),
    }
    let leaving: Vec<_> =
        detected.leaving.iter().filter_map(|link| Some((link.target.to_str()?, &link.link))).collect();
    if !leaving.is_empty() {
        text.push_str("# These lead out of the workspace, too. Name a directory here if it belongs to it:\n");
    }
    for (target, link) in leaving {
        let _ = writeln!(text, "#- {}  # {}", quoted(target), link.to_string_lossy().escape_debug());
    }
}

/// `text` as a YAML scalar. A path may hold anything, line breaks included, so whatever is not evidently plain is
/// written as a JSON string, which YAML reads as the same text.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+');
    match text.chars().all(plain) && text.contains(|c: char| c.is_ascii_alphabetic()) && !is_keyword(text) {
        true => text.into(),
        false => serde_json::Value::from(text).to_string(),
    }
}

/// True for plain scalars that are not read as text.
fn is_keyword(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    numeric || matches!(lower.as_str(), "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Bench {
        base: tempfile::TempDir,
        home: Home,
        registry: Registry,
    }

    async fn bench() -> Bench {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(&base.path().join("home"));
        home.prepare().unwrap();
        let registry = Registry::open(home.registry()).await.unwrap();
        Bench { base, home, registry }
    }

    impl Bench {
        fn directory(&self, name: &str) -> PathBuf {
            let path = self.base.path().canonicalize().unwrap().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        }

        async fn create(&self, directory: &Path, name: Option<&str>) -> Result<Created, CreateError> {
            let name = name.map(|name| name.parse().unwrap());
            create(&self.home, &self.registry, directory, name).await
        }
    }

    #[tokio::test]
    async fn a_directory_becomes_a_workspace_once() {
        let bench = bench().await;
        let directory = bench.directory("My demo");
        let first = bench.create(&directory, None).await.unwrap();
        assert!(first.file_written);
        assert_eq!((first.record.name.as_str(), &first.record.directory), ("My-demo", &directory));
        let text = fs::read_to_string(directory.join(FILE_NAME)).unwrap();
        let second = bench.create(&directory, Some("My-demo")).await.unwrap();
        assert_eq!(second, Created { file_written: false, ..first });
        assert_eq!(fs::read_to_string(directory.join(FILE_NAME)).unwrap(), text);
    }

    #[tokio::test]
    async fn the_file_that_is_there_wins() {
        let bench = bench().await;
        let directory = bench.directory("a");
        fs::write(directory.join(FILE_NAME), "schema: 1\nname: mine\n").unwrap();
        let error = bench.create(&directory, Some("other")).await.unwrap_err();
        assert!(matches!(error, CreateError::NameDiffers { .. }), "{error}");
        assert_eq!(bench.create(&directory, None).await.unwrap().record.name.as_str(), "mine");
        fs::write(directory.join(FILE_NAME), "schema: 1\nnam: mine\n").unwrap();
        let error = bench.create(&directory, None).await.unwrap_err();
        assert!(error.to_string().contains("at line 2 column 1"), "{error}");
    }

    #[tokio::test]
    async fn a_clash_leaves_nothing_behind() {
        let bench = bench().await;
        let (first, second) = (bench.directory("1/demo"), bench.directory("2/demo"));
        bench.create(&first, None).await.unwrap();
        let error = bench.create(&second, None).await.unwrap_err();
        assert!(matches!(error, CreateError::Registry(RegistryError::NameTaken { .. })), "{error}");
        assert!(!second.join(FILE_NAME).exists());
        bench.create(&second, Some("demo2")).await.unwrap();
        // A workspace within another is its own, as long as it has its own name.
        bench.create(&bench.directory("1/demo/inner"), None).await.unwrap();
        let error = bench.create(&bench.directory("home"), None).await.unwrap_err();
        assert!(matches!(error, CreateError::Workspace(WorkspaceError::Place(_))), "{error}");
        let error = bench.create(&bench.directory("工"), None).await.unwrap_err();
        assert!(matches!(error, CreateError::NoName { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_new_file_names_what_was_found() {
        let bench = bench().await;
        let (directory, python) = (bench.directory("w"), bench.directory("py\n# thon"));
        for path in ["bin", "lib/python3.11"] {
            fs::create_dir_all(python.join(path)).unwrap();
        }
        for path in ["bin/python3.11", "lib/python3.11/os.py"] {
            fs::write(python.join(path), "").unwrap();
        }
        fs::create_dir_all(directory.join("v/bin")).unwrap();
        fs::write(directory.join("v/pyvenv.cfg"), "").unwrap();
        symlink(python.join("bin/python3.11"), directory.join("v/bin/python")).unwrap();
        symlink("/data: x\n- /etc", directory.join("link\n- x")).unwrap();
        let created = bench.create(&directory, None).await.unwrap();
        let companions: Vec<_> = created.file.companions.iter().map(|path| path.as_str()).collect();
        assert_eq!(companions, [python.to_str().unwrap()]);
        assert_eq!(created.detected.leaving.len(), 1);
        let text = fs::read_to_string(directory.join(FILE_NAME)).unwrap();
        assert!(text.contains("#- \"/data: x\\n- /etc\"  # link\\n- x\n"), "{text}");
        assert_eq!(WorkspaceFile::load(&directory).unwrap(), created.file);
    }

    #[test]
    fn scalars_are_read_back_as_text() {
        for text in [
            "a",
            "gpt4-demo",
            "1",
            "1e5",
            "0x1f",
            "true",
            "No",
            "~",
            "/a b",
            "/a#b",
            "/a: b",
            "2024-01-01",
            "1_0",
        ] {
            let read: String = serde_norway::from_str(&quoted(text)).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn the_examples_in_the_comments_are_valid() {
        let detected = Detected { companions: Vec::new(), leaving: Vec::new(), complete: true };
        let is_prose = |line: &str| line.starts_with("# ") && !line.starts_with("#  ");
        let text = text(&"a".parse().unwrap(), &detected);
        let lines = text.lines().filter(|line| !is_prose(line));
        let text: String =
            lines.map(|line| line.strip_prefix('#').unwrap_or(line).to_owned() + "\n").collect();
        let text = text.replace("companions:\n", "companions: []\n");
        let file = WorkspaceFile::parse(&text, Path::new("/x")).unwrap();
        assert_eq!(file.environments[0].command, ["python", "run.py"]);
    }
}
