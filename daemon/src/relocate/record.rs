//! `RECORD`: the files of an installed package with their SHA-256 and sizes, as `pip check` and uninstallers read it
//! (the specification "Recording installed projects").
//!
//! A line is `path,sha256=DIGEST,SIZE`, the digest in URL-safe base64 without padding, the path below `site-packages`.

use data_encoding::BASE64URL_NOPAD;

/// A file that was changed: its path below the root, what it was and what it is.
pub(super) struct Changed<'c> {
    pub(super) path: &'c str,
    pub(super) before: [u8; 32],
    pub(super) after: [u8; 32],
    pub(super) bytes: u64,
}

/// Rewrites the lines of changed files. `site_packages` is the path below the root of the directory that the record's
/// own one lies in. A line that did not agree with its file stays: somebody else changed that.
pub(super) fn record(content: &[u8], site_packages: &str, changed: &[Changed<'_>]) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        match rewritten(line, site_packages, changed) {
            Some(line) => new.extend(line),
            None => new.extend_from_slice(line),
        }
    }
    (new != content).then_some(new)
}

fn rewritten(line: &[u8], site_packages: &str, changed: &[Changed<'_>]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(line).ok()?;
    let end = text.trim_end().len();
    let (rest, _size) = text[..end].rsplit_once(',')?;
    let (field, digest) = rest.rsplit_once(',')?;
    let path = below(site_packages, &unquoted(field))?;
    let found = changed.binary_search_by(|changed| changed.path.cmp(&path)).ok()?;
    let Changed { before, after, bytes, .. } = &changed[found];
    let is = |digest: &[u8; 32]| format!("sha256={}", BASE64URL_NOPAD.encode(digest));
    (digest == is(before)).then(|| format!("{field},{},{bytes}{}", is(after), &text[end..]).into_bytes())
}

/// A field as CSV has it.
fn unquoted(field: &str) -> String {
    match field.strip_prefix('"').and_then(|field| field.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => field.to_owned(),
    }
}

/// `path`, seen from `directory`, below the root; nothing for what is not below it.
fn below(directory: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for name in directory.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_changed_files_are_replaced() {
        let (old, new) = ([1; 32], [2; 32]);
        let changed = |path| Changed { path, before: old, after: new, bytes: 77 };
        let changed = [changed("v/bin/a,b"), changed("v/bin/hello"), changed("v/lib/p/site-packages/x.pth")];
        let line = |path: &str, digest: &[u8; 32], bytes: u64| {
            format!("{path},sha256={},{bytes}", BASE64URL_NOPAD.encode(digest))
        };
        let check = |before: String, expected: Option<String>| {
            let found = record(before.as_bytes(), "v/lib/p/site-packages", &changed);
            assert_eq!(found.map(|found| String::from_utf8(found).unwrap()), expected, "{before}");
        };
        let of = |ends: &str, digest, bytes| {
            let hello = line("../../../bin/hello", digest, bytes);
            let quoted = line("\"../../../bin/a,b\"", digest, bytes);
            let other = line("hello/__init__.py", &old, 5);
            format!(
                "{hello}{ends}{other}{ends}{quoted}{ends}h.dist-info/RECORD,,{ends}{}",
                line("x.pth", digest, bytes)
            )
        };
        check(of("\n", &old, 5), Some(of("\n", &new, 77)));
        check(of("\r\n", &old, 5), Some(of("\r\n", &new, 77)));
        for same in [
            line("../../../bin/hello", &new, 77),
            line("../../../../../../bin/hello", &old, 5),
            line("/v/bin/hello", &old, 5),
            "../../../bin/hello,,".into(),
            "../../../bin/hello".into(),
            String::new(),
        ] {
            check(same, None);
        }
    }
}
