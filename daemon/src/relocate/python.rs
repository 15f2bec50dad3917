//! What the files of a Python environment say about where it and its packages lie.
//!
//! | file | written by | names |
//! |---|---|---|
//! | `pyvenv.cfg` | venv, virtualenv, uv | the base interpreter, the environment (in the command that made it) |
//! | `bin/activate*`, `bin/deactivate*` | the same | the environment |
//! | `*.pth`, `*.egg-link` | setuptools, uv, hatch, maturin, … | directories packages are imported from, one a line |
//! | `__editable__*.py` and the like | setuptools, meson-python, scikit-build-core | the same, in strings |
//! | `direct_url.json` | pip, uv | where a package was installed from (PEP 610) |
//! | `share/jupyter/kernels/*/kernel.json` | ipykernel | the interpreter |

use super::moves::{Move, Moves, Rewritten, Style, Unfit};

/// The key of `pyvenv.cfg` whose value is a command, not a path.
const COMMAND: &[u8] = b"command";

/// How the URL of a directory begins.
const FILE_URL: &[u8] = b"\"file://";

/// Rewrites a `pyvenv.cfg`: lines of `key = value`, as the `site` module reads them.
pub(super) fn configuration(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    by_lines(content, |line| {
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else { return Ok(None) };
        let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
        let start = line.len() - line[equals + 1..].trim_ascii_start().len();
        let end = start + value.len();
        if key.eq_ignore_ascii_case(COMMAND) {
            // It is there to be read by people.
            let rewritten = moves.text(value, Style::Words).ok().flatten();
            return Ok(rewritten.map(|rewritten| rewritten.within(&line[..start], &line[end..])));
        }
        let Some((path, moved)) = moves.path(value) else { return Ok(None) };
        Ok(Some(Rewritten::once(one_line(path)?, moved).within(&line[..start], &line[end..])))
    })
}

/// Rewrites what is sourced to activate an environment, in whatever shell's language.
pub(super) fn activation(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    moves.text(content, Style::Shell)
}

/// Rewrites a file of paths, one a line (the `site` module's documentation). Lines that are code stay.
pub(super) fn paths(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    by_lines(content, |line| {
        let path = line.trim_ascii_end();
        let Some((moved_path, moved)) = moves.path(path) else { return Ok(None) };
        Ok(Some(Rewritten::once(one_line(moved_path)?, moved).within(b"", &line[path.len()..])))
    })
}

/// Rewrites the strings in a module that finds packages, or in a kernel's description.
pub(super) fn strings(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    moves.text(content, Style::Strings)
}

/// Rewrites the URL in a `direct_url.json`.
pub(super) fn direct_url(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    let Some(at) = content.windows(FILE_URL.len()).position(|window| window == FILE_URL) else {
        return Ok(None);
    };
    let start = at + FILE_URL.len();
    let length = content[start..].iter().position(|byte| *byte == b'"').unwrap_or(content.len() - start);
    let end = start + length;
    let Some((path, moved)) = moves.path(&decoded(&content[start..end])) else { return Ok(None) };
    Ok(Some(Rewritten::once(encoded(&path), moved).within(&content[..start], &content[end..])))
}

fn by_lines(
    content: &[u8],
    rewrite: impl Fn(&[u8]) -> Result<Option<Rewritten>, Unfit>,
) -> Result<Option<Rewritten>, Unfit> {
    let mut all = Rewritten { bytes: Vec::with_capacity(content.len()), replaced: Vec::new() };
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        match rewrite(line)? {
            Some(rewritten) => all.append(&rewritten),
            None => all.bytes.extend_from_slice(line),
        }
    }
    Ok((!all.replaced.is_empty()).then_some(all))
}

/// A path that can stand in a line.
fn one_line(path: Vec<u8>) -> Result<Vec<u8>, Unfit> {
    match path.iter().any(u8::is_ascii_control) {
        false => Ok(path),
        true => Err(Unfit("the new path holds control characters")),
    }
}

/// A URL's path without its `%XX`.
fn decoded(url: &[u8]) -> Vec<u8> {
    let digit = |at: usize| url.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut path = Vec::with_capacity(url.len());
    let mut at = 0;
    while let Some(byte) = url.get(at) {
        let escaped = (*byte == b'%').then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?)).flatten();
        path.push(escaped.map_or(*byte, |byte| byte as u8));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    path
}

/// A path as a URL has it (RFC 3986, section 2.3), as Python's `pathname2url` writes it.
fn encoded(path: &[u8]) -> Vec<u8> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let mut url = Vec::with_capacity(path.len());
    for &byte in path {
        match is_plain(byte) {
            true => url.push(byte),
            false => url.extend(format!("%{byte:02X}").bytes()),
        }
    }
    url
}

impl Rewritten {
    /// The same between what stays.
    pub(super) fn within(mut self, before: &[u8], after: &[u8]) -> Self {
        self.bytes = [before, &self.bytes, after].concat();
        self
    }

    fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        let replaced: Vec<(Move, u32)> = other.replaced.clone();
        self.add_all(&replaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Root;

    type Rewrite = fn(&[u8], &Moves) -> Result<Option<Rewritten>, Unfit>;

    #[track_caller]
    fn check(rewrite: Rewrite, to: &str, content: &str, expected: &str) {
        let moves = Moves::of(&[
            Root { origin: "/h/ws".into(), here: to.into() },
            Root { origin: "/opt/p".into(), here: "/k/1".into() },
        ]);
        let found = rewrite(content.as_bytes(), &moves).unwrap();
        let found = found.map_or(content.to_owned(), |found| String::from_utf8(found.bytes).unwrap());
        assert_eq!(found, expected);
    }

    #[test]
    fn a_configuration_names_the_interpreter() {
        check(
            configuration,
            "/n",
            "home = /opt/p/bin\ninclude-system-site-packages = false\nversion = 3.11.7\r\nexecutable=/opt/p/bin/python3.11\n\
             command = /opt/p/bin/python3.11 -m venv /h/ws/v\nprompt = /h/ws2\nno value /h/ws",
            "home = /k/1/bin\ninclude-system-site-packages = false\nversion = 3.11.7\r\nexecutable=/k/1/bin/python3.11\n\
             command = /k/1/bin/python3.11 -m venv /n/v\nprompt = /h/ws2\nno value /h/ws",
        );
        check(configuration, "/n", "home = /usr/bin\n", "home = /usr/bin\n");
        check(configuration, "/n m", "a = /h/ws/b\ncommand = x /h/ws", "a = /n m/b\ncommand = x /h/ws");
        let moves = Moves::of(&[Root { origin: "/h/ws".into(), here: "/n\nx = y".into() }]);
        assert!(configuration(b"home = /h/ws/b", &moves).is_err());
    }

    #[test]
    fn activation_is_in_many_languages() {
        for (line, expected) in [
            ("VIRTUAL_ENV=\"/h/ws/v\"", "VIRTUAL_ENV=\"/n/v\""),
            ("VIRTUAL_ENV=/h/ws/v\nexport VIRTUAL_ENV", "VIRTUAL_ENV=/n/v\nexport VIRTUAL_ENV"),
            ("set -gx VIRTUAL_ENV '/h/ws/v'", "set -gx VIRTUAL_ENV '/n/v'"),
            ("source '/h/ws/v'\"/\"'bin'\"/deactivate.csh\"", "source '/n/v'\"/\"'bin'\"/deactivate.csh\""),
            ("let virtual_env = r#'/h/ws/v'#", "let virtual_env = r#'/n/v'#"),
            ("if [ ! -d /h/ws/v ] &&", "if [ ! -d /n/v ] &&"),
            ("$(cygpath \"/h/ws/v\")", "$(cygpath \"/n/v\")"),
        ] {
            check(activation, "/n", line, expected);
        }
        check(activation, "/n m", "VIRTUAL_ENV=/h/ws/v", "VIRTUAL_ENV='/n m'/v");
    }

    #[test]
    fn paths_are_replaced_and_code_is_not() {
        check(
            paths,
            "/n m",
            "/h/ws/src\n/opt/p/lib\r\nimport sys; sys.path.append('/h/ws/x')\nrelative\n# /h/ws\n/h/ws2\n",
            "/n m/src\n/k/1/lib\r\nimport sys; sys.path.append('/h/ws/x')\nrelative\n# /h/ws\n/h/ws2\n",
        );
        check(
            strings,
            "/n",
            "MAPPING: dict = {'m': '/h/ws/m'}  # /h/ws",
            "MAPPING: dict = {'m': '/n/m'}  # /h/ws",
        );
    }

    #[test]
    fn a_url_is_encoded() {
        let json = |url: &str| format!("{{\"dir_info\": {{\"editable\": true}}, \"url\": \"{url}\"}}");
        check(
            direct_url,
            "/n m/ü%",
            &json("file:///h/ws/a%2Db%20c"),
            &json("file:///n%20m/%C3%BC%25/a-b%20c"),
        );
        for other in
            ["https://example.org/h/ws", "file:///h/ws2", "file:///h/ws/%2e%2e/x", "file://host/h/ws"]
        {
            check(direct_url, "/n", &json(other), &json(other));
        }
        check(direct_url, "/n", "{\"url\": \"file:///h/ws/%", "{\"url\": \"file:///n/%25");
    }
}
