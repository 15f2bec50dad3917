//! `twinshare.yaml`: what a workspace's owner says about it. It travels with the workspace.
//!
//! A key that does not exist is an error with its place, so that a typing mistake is not silently ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de};

use super::{CompanionPath, WorkspaceName};
use crate::runtime::Runtime;
use crate::yaml::{self, YamlError};

/// The file's name, directly in the workspace's directory.
pub const FILE_NAME: &str = "twinshare.yaml";

/// The version of the file's form. A new one is made only where an old file would mean something else.
const SCHEMA: u32 = 1;

/// What a workspace's file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the description of a workspace")]
pub struct WorkspaceFile {
    /// The version of the file's form: 1.
    #[serde(deserialize_with = "schema")]
    pub schema: u32,
    /// What the workspace is called.
    pub name: WorkspaceName,
    /// What it is for, in a sentence. Default: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Directories outside the workspace that are shared with it, read-only. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub companions: Vec<CompanionPath>,
    /// In what the workspace's commands run. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<Environment>,
    /// What its author suggests to whoever shares it.
    #[serde(default, skip_serializing_if = "ShareDefaults::is_silent")]
    pub share: ShareDefaults,
}

/// In what commands run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the description of an environment")]
pub struct Environment {
    /// What it is called.
    pub name: WorkspaceName,
    /// What runs it. Default: `process`.
    #[serde(default)]
    pub runtime: Runtime,
    /// The command that is run when none is given, with its arguments. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Variables set for its commands. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "variables")]
    pub env: BTreeMap<String, String>,
}

/// How a workspace's author suggests to share it. It is shown and never followed: the file travels, and what others
/// write into it must not let anybody into this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "share defaults")]
pub struct ShareDefaults {
    /// Whether to let every peer in. Default: false.
    pub open: bool,
}

impl ShareDefaults {
    /// True where they say nothing.
    fn is_silent(&self) -> bool {
        !self.open
    }
}

/// Why a workspace's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("{directory} has no {FILE_NAME}: `twinshare workspace create {directory}` writes one")]
    Missing {
        /// The workspace's directory.
        directory: PathBuf,
    },
    /// It cannot be read, or is not what it should be.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

impl WorkspaceFile {
    /// A file that says no more than the name.
    pub fn new(name: WorkspaceName) -> Self {
        let (companions, environments) = (Vec::new(), Vec::new());
        let share = ShareDefaults::default();
        Self { schema: SCHEMA, name, description: String::new(), companions, environments, share }
    }

    /// Reads the file in `directory`. Blocks on the disk.
    pub fn load(directory: &Path) -> Result<Self, FileError> {
        let found = yaml::load(&directory.join(FILE_NAME))?;
        found.ok_or_else(|| FileError::Missing { directory: directory.into() })
    }

    /// Reads `text`; `path` is what messages call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        Ok(yaml::parse(text, path)?)
    }
}

fn schema<'de, D: de::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    yaml::scalar(deserializer).map(|Schema| SCHEMA)
}

/// The one schema there is.
struct Schema;

impl std::str::FromStr for Schema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self),
            other => {
                let other: String = other.chars().take(20).collect();
                Err(format!(
                    "`{}` is not a schema this version of twinshare knows: write 1",
                    other.escape_debug()
                ))
            }
        }
    }
}

/// Variables as a process can be given them: no `=` in a name, no NUL anywhere.
fn variables<'de, D: de::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let variables = BTreeMap::<String, String>::deserialize(deserializer)?;
    let wrong = |(name, value): &(&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    match variables.iter().find(wrong) {
        Some((name, _)) => {
            Err(de::Error::custom(format!("`{}` cannot be a variable of a process", name.escape_debug())))
        }
        None => Ok(variables),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WorkspaceFile, String> {
        WorkspaceFile::parse(text, Path::new("/w/twinshare.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file_is_read_and_written_back() {
        let text = "schema: 1\nname: gpt4-demo\ndescription: A demo.\ncompanions: [/opt/python3.11, ~/models]\n\
                    environments:\n- name: main\n  runtime: process\n  command: [python, run.py]\n  env: {A: b, PORT: 080}\n\
                    share:\n  open: true\n";
        let file = parse(text).unwrap();
        assert_eq!(
            file.companions.iter().map(CompanionPath::as_str).collect::<Vec<_>>(),
            ["/opt/python3.11", "~/models"]
        );
        assert_eq!(file.environments[0].command, ["python", "run.py"]);
        assert_eq!(file.environments[0].env["A"], "b");
        // A scalar is text as it stands.
        assert_eq!(file.environments[0].env["PORT"], "080");
        assert!(file.share.open);
        assert_eq!(parse(&serde_norway::to_string(&file).unwrap()), Ok(file));
        let short = parse("schema: 1\nname: a\n").unwrap();
        assert_eq!(short, WorkspaceFile::new("a".parse().unwrap()));
        assert_eq!(parse(&serde_norway::to_string(&short).unwrap()), Ok(short));
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected) && error.starts_with("/w/twinshare.yaml: "), "{error}");
    }

    #[test]
    fn a_mistake_is_an_error_with_its_place() {
        check("", "");
        check("name: a", "missing field `schema`");
        check(
            "schema: 2\nname: a",
            "schema: `2` is not a schema this version of twinshare knows: write 1 at line 1 column 9",
        );
        check("schema: 1", "missing field `name`");
        check("schema: 1\nname: a b", "name: `a b` is not a name for a workspace");
        check("schema: 1\nname: a\nprojekts: []", "unknown field `projekts`");
        check("schema: 1\nname: a\nprojekts: []", "at line 3 column 1");
        check("schema: 1\nname: a\ncompanions: [opt]", "companions[0]: `opt` is not");
        check(
            "schema: 1\nname: a\nenvironments:\n- name: m\n  runtime: vm",
            "environments[0].runtime: unknown variant `vm`",
        );
        check("schema: 1\nname: a\nenvironments:\n- name: m\n  env: {A=B: x}", "`A=B` cannot be a variable");
        check("schema: 1\nname: a\nshare: open", "expected share defaults");
        check("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "unknown field");
    }
}
