//! What was edited in a settled clone so that it works where it lies.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was edited in a settled clone so that it works where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaRelocation {
    /// How many files and links were edited.
    pub edited: u64,
    /// How many were left as they are although they name a path of the origin.
    pub left: u64,
    /// All that were edited; absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<ReplicaEdit>,
    /// Those that were left, up to a thousand; absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_alone: Vec<ReplicaNotEdited>,
}

/// One file or link that was edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaEdit {
    /// Where it is.
    pub path: String,
    /// What it is.
    pub kind: EditKind,
    /// What was replaced in it; nothing in files that hold digests of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<ReplacedPath>,
}

/// A path that was replaced by another one, where something lies in it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplacedPath {
    /// The path at the origin.
    pub from: String,
    /// Where that is here.
    pub to: String,
    /// How often.
    pub times: u32,
}

/// Something that names a path of the origin and was not edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaNotEdited {
    /// Where it is.
    pub path: String,
    /// Why it was not, for people.
    pub reason: String,
}

/// A kind of file that names the place where it or something else lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EditKind {
    /// `pyvenv.cfg`: a virtual environment's interpreter.
    Configuration,
    /// `activate` and its relatives.
    Activation,
    /// The first line of a script.
    Script,
    /// `.pth` and `.egg-link`: directories from which packages are imported.
    Paths,
    /// A module that finds packages installed in editable form.
    Finder,
    /// `direct_url.json`: where a package was installed from.
    DirectUrl,
    /// `kernel.json`: how Jupyter starts an interpreter.
    Kernel,
    /// A text of a conda package.
    CondaText,
    /// A binary of a conda package.
    CondaBinary,
    /// `conda-meta/*.json`: digests of a conda package's files.
    CondaDigests,
    /// `RECORD`: digests of a Python package's files.
    Record,
    /// A symbolic link.
    Link,
}
