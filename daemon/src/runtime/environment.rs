//! The variables a command gets: a chosen few of the caller's, then the plan's.
//!
//! A caller's environment holds secrets (tokens, agents' sockets) and paths that are hidden inside, so that what
//! passes is a list of what may, not of what may not.

use std::collections::BTreeMap;

use super::Inside;

/// Variables of the caller that pass on.
const PASSED: [&str; 26] = [
    "COLORTERM",
    "COLUMNS",
    "CUDA_VISIBLE_DEVICES",
    "FORCE_COLOR",
    "HIP_VISIBLE_DEVICES",
    "LANG",
    "LANGUAGE",
    "LINES",
    "MKL_NUM_THREADS",
    "NO_COLOR",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ROCR_VISIBLE_DEVICES",
    "SOURCE_DATE_EPOCH",
    "TERM",
    "TERM_PROGRAM",
    "TZ",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Where commands are searched for when the caller's `PATH` does not say so.
const SYSTEM_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The complete environment of the command in a plan, for a caller with the variables `own`.
pub(super) fn compose(
    inside: &Inside,
    own: impl Iterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let mut path = None;
    let mut environment = BTreeMap::new();
    for (name, value) in own {
        if name == "PATH" {
            path = Some(value);
        } else if PASSED.contains(&name.as_str()) || name.starts_with("LC_") {
            environment.insert(name, value);
        }
    }
    environment.extend(inside.environment.clone());
    let own_path = environment.remove("PATH").or(path).unwrap_or_default();
    environment.insert("PATH".to_owned(), search_path(&inside.search, &own_path));
    environment
}

/// `first`, then what is in `path`, then the system's directories, each once. Relative entries are dropped: they
/// would lead into the workspace.
fn search_path(first: &[String], path: &str) -> String {
    let mut directories: Vec<&str> = Vec::new();
    let all = first.iter().map(String::as_str).chain(path.split(':')).chain(SYSTEM_PATH);
    for directory in all.filter(|directory| directory.starts_with('/')) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(own: &[(&str, &str)], planned: &[(&str, &str)], search: &[&str], expected: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let inside = Inside {
            command: vec!["true".to_owned()],
            directory: "/".to_owned(),
            environment: planned.iter().map(owned).collect(),
            search: search.iter().map(|directory| (*directory).to_owned()).collect(),
            writable: Vec::new(),
        };
        let composed = compose(&inside, own.iter().map(owned));
        assert_eq!(composed, expected.iter().map(owned).collect());
    }

    #[test]
    fn what_passes_is_chosen() {
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        check(&[], &[], &[], &[("PATH", system)]);
        check(
            &[("TERM", "xterm"), ("LC_ALL", "C"), ("AWS_SECRET_ACCESS_KEY", "x"), ("SSH_AUTH_SOCK", "/s")],
            &[("HOME", "/home/a"), ("TERM", "dumb")],
            &[],
            &[("HOME", "/home/a"), ("LC_ALL", "C"), ("PATH", system), ("TERM", "dumb")],
        );
        check(
            &[("PATH", "/opt/bin:.:/usr/bin::relative"), ("LD_PRELOAD", "/x.so")],
            &[],
            &["/w/.venv/bin"],
            &[("PATH", "/w/.venv/bin:/opt/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin")],
        );
        check(
            &[("PATH", "/opt/bin")],
            &[("PATH", "/bin")],
            &[],
            &[("PATH", "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin")],
        );
    }
}
