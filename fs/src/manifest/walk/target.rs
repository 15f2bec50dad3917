//! Where a symbolic link leads, by its letters alone.

use std::os::unix::ffi::OsStrExt;

use super::listing::Directory;
use super::root::Root;

/// The absolute path that `target` of a link in `directory` means, when it lies outside every root.
///
/// Other links on the way are not resolved: this says what to offer as a companion, it guards nothing.
pub(super) fn outside(roots: &[Root], directory: &Directory, target: &[u8]) -> Option<Vec<u8>> {
    let roots: Vec<_> = roots.iter().map(|root| root.path.as_os_str().as_bytes()).collect();
    outside_of(&roots, roots[directory.root], &directory.path, target)
}

fn outside_of(roots: &[&[u8]], root: &[u8], directory: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let absolute = target.starts_with(b"/");
    if !absolute && !target.split(is_slash).any(|name| name == b"..") {
        return None;
    }
    let from: &[&[u8]] = if absolute { &[target] } else { &[root, directory, target] };
    let names = normal(from.iter().copied());
    let inside = |root: &&[u8]| names.starts_with(&normal([*root]));
    (!roots.iter().any(inside))
        .then(|| names.iter().flat_map(|name| [&b"/"[..], name]).flatten().copied().collect())
}

/// The names of a path, without `.` and empty ones, and with `..` taken back.
fn normal<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Vec<&'p [u8]> {
    let mut names = Vec::new();
    for name in parts.into_iter().flat_map(|part| part.split(is_slash)) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(directory: &str, target: &str, expected: Option<&str>) {
        let roots = [&b"/home/a/w"[..], b"/opt/py"];
        let found = outside_of(&roots, roots[0], directory.as_bytes(), target.as_bytes());
        let found = found.map(|path| String::from_utf8(path).unwrap());
        assert_eq!(found.as_deref(), expected, "{target} in {directory}");
    }

    #[test]
    fn a_link_leaves_the_tree_by_its_letters() {
        check("", "a", None);
        check("d", "../a", None);
        check("d", "../../x", Some("/home/a/x"));
        check("d", "../../w/x", None);
        check("d", "../../../../../opt/py/bin", None);
        check("d", "../../w2", Some("/home/a/w2"));
        check("", "/home/a/w/x", None);
        check("", "/home/a/w/../x", Some("/home/a/x"));
        check("", "/usr/bin/python3", Some("/usr/bin/python3"));
        check("", "/opt/py", None);
        check("", "/", Some(""));
        check("", "//opt//./py/", None);
    }
}
