//! What a conda environment keeps of its packages, and the prefix in their files.
//!
//! Packages are built for a placeholder of a path, which conda replaces when it installs them: in texts by the prefix,
//! in binaries by the prefix and zeros, so that every string ends at or before its place. `conda-meta/*.json` lists the
//! files that had one, how each was replaced, and the SHA-256 that each had then.

use std::collections::HashMap;

use serde::Deserialize;

use super::moves::{Moves, Rewritten, Style, Unfit};
use super::scripts;

/// A file of a package that holds the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefixed {
    /// Its path below the environment.
    pub(super) path: String,
    /// Of a binary, the bytes of the placeholder it was built with.
    pub(super) placeholder_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    paths_data: Paths,
}

#[derive(Default, Deserialize)]
struct Paths {
    #[serde(default)]
    paths: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "_path")]
    path: String,
    #[serde(default)]
    file_mode: Option<String>,
    #[serde(default)]
    prefix_placeholder: Option<String>,
}

/// The files with a prefix of the package that this document describes; none if it describes no package.
pub(super) fn prefixed(document: &[u8]) -> Vec<Prefixed> {
    let Ok(package) = serde_json::from_slice::<Package>(document) else { return Vec::new() };
    let prefixed = package.paths_data.paths.into_iter().filter_map(|listed| {
        let placeholder = listed.prefix_placeholder.filter(|placeholder| !placeholder.is_empty())?;
        let placeholder_bytes = match listed.file_mode.as_deref() {
            Some("binary") => Some(placeholder.len() as u64),
            _ => None,
        };
        is_below(&listed.path).then_some(Prefixed { path: listed.path, placeholder_bytes })
    });
    prefixed.collect()
}

/// True for a path that leads to something in the environment.
fn is_below(path: &str) -> bool {
    path.split('/').all(|name| !matches!(name, "" | "." | "..")) && !path.contains('\0')
}

/// Rewrites a text: the first line of a script as the kernel takes it, the prefix everywhere else.
pub(super) fn text(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    let Some(mut script) = scripts::script(content, moves)? else {
        return moves.text(content, Style::Words);
    };
    let head = content.iter().position(|byte| *byte == b'\n').unwrap_or(content.len());
    let body = &content[head..];
    if let Some(rest) = moves.text(body, Style::Words)? {
        script.bytes.truncate(script.bytes.len() - body.len());
        script.bytes.extend_from_slice(&rest.bytes);
        script.add_all(&rest.replaced);
    }
    Ok(Some(script))
}

/// Rewrites a binary, in strings that end with a zero, each in the place it has: its own bytes and, where they are zeros,
/// those by which the placeholder was longer than the prefix that replaced it.
pub(super) fn binary(
    content: &[u8],
    moves: &Moves,
    placeholder_bytes: u64,
) -> Result<Option<Rewritten>, Unfit> {
    let mut whole = Rewritten { bytes: Vec::with_capacity(content.len()), replaced: Vec::new() };
    let mut at = 0;
    while at < content.len() {
        let end = content[at..].iter().position(|byte| *byte == 0).map_or(content.len(), |zero| at + zero);
        let string = &content[at..end];
        let Some(new) = moves.text(string, Style::Words)? else {
            let next = (end + 1).min(content.len());
            whole.bytes.extend_from_slice(&content[at..next]);
            at = next;
            continue;
        };
        let saved: u64 = new
            .replaced
            .iter()
            .map(|(moved, times)| {
                u64::from(*times) * placeholder_bytes.saturating_sub(moved.from.len() as u64)
            })
            .sum();
        let zeros = content[end..].iter().take_while(|byte| **byte == 0).count();
        // One more ends the string.
        let spare = usize::try_from(saved).ok().filter(|saved| zeros > *saved).unwrap_or(0);
        let room = string.len() + spare;
        if zeros == 0 || new.bytes.len() > room {
            return Err(Unfit("the new path is longer than the room that its strings have"));
        }
        whole.bytes.extend_from_slice(&new.bytes);
        whole.bytes.resize(at + room + 1, 0);
        whole.add_all(&new.replaced);
        at += room + 1;
    }
    Ok((!whole.replaced.is_empty()).then_some(whole))
}

/// Rewrites a package's document: `changed` has the new SHA-256 of a file by the one it had, both as hexadecimal digits.
pub(super) fn digests(content: &[u8], changed: &HashMap<&str, &str>) -> Option<Vec<u8>> {
    const KEY: &[u8] = b"\"sha256_in_prefix\"";
    const DIGITS: usize = 64;
    let mut new = content.to_vec();
    let mut at = 0;
    while let Some(key) = content[at..].windows(KEY.len()).position(|window| window == KEY) {
        at += key + KEY.len();
        let gap = content[at..].iter().take_while(|byte| b" \t\r\n:\"".contains(byte)).count();
        let digest =
            content.get(at + gap..at + gap + DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(replacement) =
            digest.and_then(|digest| changed.get(digest)).filter(|new| new.len() == DIGITS)
        {
            new[at + gap..at + gap + DIGITS].copy_from_slice(replacement.as_bytes());
        }
    }
    (new != content).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Root;

    fn moves(to: &str) -> Moves {
        Moves::of(&[Root { origin: "/h/env".into(), here: to.into() }])
    }

    #[test]
    fn only_files_with_a_prefix_are_listed() {
        let document = br#"{"name": "x", "paths_data": {"paths": [
            {"_path": "bin/a", "file_mode": "text", "prefix_placeholder": "/opt/anaconda1anaconda2anaconda3"},
            {"_path": "lib/b.so", "file_mode": "binary", "prefix_placeholder": "/plac"},
            {"_path": "lib/c"}, {"_path": "lib/d", "prefix_placeholder": ""},
            {"_path": "../../etc/passwd", "file_mode": "text", "prefix_placeholder": "/p"},
            {"_path": "/etc/passwd", "file_mode": "text", "prefix_placeholder": "/p"}]}}"#;
        let expected = [("bin/a", None), ("lib/b.so", Some(5))];
        let expected = expected.map(|(path, bytes)| Prefixed { path: path.into(), placeholder_bytes: bytes });
        assert_eq!(prefixed(document), expected);
        for other in [&b"{}"[..], b"[]", b"", b"{\"paths_data\": 3}"] {
            assert_eq!(prefixed(other), []);
        }
    }

    #[test]
    fn a_text_has_the_prefix_everywhere() {
        let long = format!("/{}", "l".repeat(120));
        for (to, content, expected) in [
            (
                "/n",
                "prefix=/h/env\nflags=-I/h/env/include -L/h/env/lib:x",
                "prefix=/n\nflags=-I/n/include -L/n/lib:x",
            ),
            ("/n", "#!/h/env/bin/python\np = '/h/env/share'\n", "#!/n/bin/python\np = '/n/share'\n"),
            ("/n", "#!/h/env/bin/perl", "#!/n/bin/perl"),
            ("/n", "#!/bin/sh\n/h/env/bin/x /h/environment", "#!/bin/sh\n/n/bin/x /h/environment"),
            (
                &long,
                "#!/h/env/bin/python\n/h/env",
                &format!("#!/bin/sh\n'''exec' {long}/bin/python \"$0\" \"$@\"\n' '''\n{long}"),
            ),
        ] {
            let found = text(content.as_bytes(), &moves(to)).unwrap().unwrap();
            assert_eq!(String::from_utf8(found.bytes).unwrap(), expected);
        }
        assert!(text(b"x=/h/env", &moves("/a b")).is_err());
        assert_eq!(text(b"nothing", &moves("/n")), Ok(None));
    }

    #[test]
    fn strings_in_a_binary_keep_their_place() {
        let check = |to: &str, placeholder, content: &[u8], expected: Option<&[u8]>| {
            let found = binary(content, &moves(to), placeholder).ok().flatten();
            assert_eq!(found.map(|found| found.bytes).as_deref(), expected, "{to}");
        };
        check("/n", 6, b"\x7fELF\0/h/env/lib\0rest", Some(b"\x7fELF\0/n/lib\0\0\0\0\0rest"));
        check("/n", 6, b"a=/h/env:/h/env/x\0\x01", Some(b"a=/n:/n/x\0\0\0\0\0\0\0\0\0\x01"));
        // Two bytes more than the prefix were the placeholder's, and they are zeros.
        check("/h/longe", 8, b"/h/env/lib\0\0\0rest", Some(b"/h/longe/lib\0rest"));
        check("/h/longe", 8, b"/h/env/lib\0\0rest", None);
        check("/h/longer", 8, b"/h/env/lib\0\0\0\0\0", None);
        check("/h/enf", 6, b"/h/env/lib\0\0", Some(b"/h/enf/lib\0\0"));
        check("/n", 6, b"/h/env/lib", None);
        check("/n", 6, b"/h/environment\0", None);
        assert_eq!(binary(b"nothing\0", &moves("/n"), 6), Ok(None));
    }

    #[test]
    fn digests_follow_their_files() {
        let (old, new, other) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let changed = HashMap::from([(old.as_str(), new.as_str())]);
        let document = |digest: &str| {
            format!("{{\"sha256\": \"{old}\", \"sha256_in_prefix\": \"{digest}\", \"x\": \"{other}\"}}")
        };
        let found =
            digests(document(&old).as_bytes(), &changed).map(|found| String::from_utf8(found).unwrap());
        assert_eq!(found, Some(document(&new)));
        for same in [document(&other), "{\"sha256_in_prefix\": \"a".into(), String::new()] {
            assert_eq!(digests(same.as_bytes(), &changed), None);
        }
    }
}
