//! Git's configuration syntax, read exactly as `config.c` of git reads it, except that a line git would refuse is
//! skipped instead of ending everything.

/// Where a setting stands: `[section "subsection"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// In lower case.
    pub(super) section: Vec<u8>,
    /// As written; in lower case where it came as `[section.subsection]`.
    pub(super) subsection: Option<Vec<u8>>,
}

/// Calls `visit` for each setting in order: its header, its key in lower case, and its value, which is `None` where
/// there is no `=` (git takes that for true).
pub(super) fn read(bytes: &[u8], mut visit: impl FnMut(&Header, &[u8], Option<&[u8]>)) {
    let mut reader = Reader { rest: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) };
    let mut header = None;
    while let Some(byte) = reader.next() {
        match byte {
            b'#' | b';' => reader.skip_line(byte),
            b'[' => header = reader.header(),
            _ if is_space(byte) => {}
            _ if byte.is_ascii_alphabetic() => {
                if let (Some((key, value)), Some(header)) = (reader.setting(byte), &header) {
                    visit(header, &key, value.as_deref());
                }
            }
            _ => reader.skip_line(byte),
        }
    }
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl Reader<'_> {
    /// The next byte; CR LF is one line feed.
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match self.rest {
            [b'\r', b'\n', rest @ ..] => (b'\n', rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        self.rest = rest;
        Some(byte)
    }

    /// The next byte, where the end of the file ends the line too.
    fn next_in_line(&mut self) -> u8 {
        self.next().unwrap_or(b'\n')
    }

    /// Reads to the end of the line that `last` may already have ended.
    fn skip_line(&mut self, last: u8) {
        let mut byte = last;
        while byte != b'\n' {
            byte = self.next_in_line();
        }
    }

    /// What follows `[`; `None`, and the rest of the line skipped, where it is malformed.
    fn header(&mut self) -> Option<Header> {
        let mut name = Vec::new();
        loop {
            match self.next_in_line() {
                b']' => return Some(plain_header(&name)),
                byte if is_space(byte) => return self.subsection(name, byte),
                byte if is_key(byte) || byte == b'.' => name.push(byte.to_ascii_lowercase()),
                byte => {
                    self.skip_line(byte);
                    return None;
                }
            }
        }
    }

    /// What follows the blank after a section's name: `"subsection"]`.
    fn subsection(&mut self, section: Vec<u8>, mut byte: u8) -> Option<Header> {
        while is_space(byte) && byte != b'\n' {
            byte = self.next_in_line();
        }
        let mut subsection = Vec::new();
        while byte != b'\n' {
            byte = match self.next_in_line() {
                b'"' => break,
                b'\\' => self.next_in_line(),
                byte => byte,
            };
            subsection.push(byte);
        }
        match byte {
            b'\n' => None,
            _ => match self.next_in_line() {
                b']' => Some(Header { section, subsection: Some(subsection) }),
                byte => {
                    self.skip_line(byte);
                    None
                }
            },
        }
    }

    /// A key that begins with `first`, and its value; `None`, and the line skipped, where it is malformed.
    fn setting(&mut self, first: u8) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let mut key = vec![first.to_ascii_lowercase()];
        let mut byte = self.next_in_line();
        while is_key(byte) {
            key.push(byte.to_ascii_lowercase());
            byte = self.next_in_line();
        }
        while matches!(byte, b' ' | b'\t') {
            byte = self.next_in_line();
        }
        match byte {
            b'\n' => Some((key, None)),
            b'=' => self.value().map(|value| (key, Some(value))),
            _ => {
                self.skip_line(byte);
                None
            }
        }
    }

    /// What follows `=`: blanks around it go, blanks within stay, quotes and backslashes are undone.
    fn value(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        // The length without the blanks at its end.
        let mut kept = 0;
        let mut quoted = false;
        loop {
            match self.next_in_line() {
                b'\n' if quoted => return None,
                b'\n' => break,
                byte @ (b'#' | b';') if !quoted => {
                    self.skip_line(byte);
                    break;
                }
                byte if is_space(byte) && !quoted => {
                    if !value.is_empty() {
                        value.push(byte);
                    }
                    continue;
                }
                b'"' => quoted = !quoted,
                b'\\' => match self.next_in_line() {
                    b'\n' => {}
                    b't' => value.push(b'\t'),
                    b'b' => value.push(8),
                    b'n' => value.push(b'\n'),
                    byte @ (b'\\' | b'"') => value.push(byte),
                    byte => {
                        self.skip_line(byte);
                        return None;
                    }
                },
                byte => value.push(byte),
            }
            kept = value.len();
        }
        value.truncate(kept);
        Some(value)
    }
}

/// `[section]` or the old form `[section.subsection]`.
fn plain_header(name: &[u8]) -> Header {
    match name.iter().position(|byte| *byte == b'.') {
        Some(dot) => Header { section: name[..dot].into(), subsection: Some(name[dot + 1..].into()) },
        None => Header { section: name.into(), subsection: None },
    }
}

fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// Git's own `isspace`: it has neither vertical tab nor form feed.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, Option<&str>)]) {
        let mut found = Vec::new();
        read(text.as_bytes(), |header, key, value| {
            let mut name = header.section.clone();
            for part in header.subsection.iter().map(Vec::as_slice).chain([key]) {
                name.push(b'.');
                name.extend_from_slice(part);
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((text(&name), value.map(text)));
        });
        let expected: Vec<_> = expected.iter().map(|(n, v)| (n.to_string(), v.map(str::to_string))).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn settings_are_read_as_git_reads_them() {
        check("[core]\n\tbare = true\n", &[("core.bare", Some("true"))]);
        check("\u{feff}[Core]BARE=1", &[("core.bare", Some("1"))]);
        check("[a]\r\nb = c\r\n", &[("a.b", Some("c"))]);
        check("[a \"B c\\\"\\\\d\"]\nx", &[("a.B c\"\\d.x", None)]);
        check("[a.B]\nx = 1", &[("a.b.x", Some("1"))]);
        check("[a] b = 1\n c=2", &[("a.b", Some("1")), ("a.c", Some("2"))]);
        check("[a]\nb =  x  y  \nc = \" x \" z ", &[("a.b", Some("x  y")), ("a.c", Some(" x  z"))]);
        check("[a]\nb = x\\\n  y\nc = 1", &[("a.b", Some("x  y")), ("a.c", Some("1"))]);
        check("[a]\nb = \\t\\n\\b\\\\\\\"", &[("a.b", Some("\t\n\u{8}\\\""))]);
        check(
            "[a]\nb = x # c\nc = \"#\" ; d\n# e\n;f\nd =",
            &[("a.b", Some("x")), ("a.c", Some("#")), ("a.d", Some(""))],
        );
    }

    #[test]
    fn a_malformed_line_is_skipped() {
        check("x = 1\n[a]\ny = 1", &[("a.y", Some("1"))]);
        check("[a b]\nx = 1\n[c]\ny = 2", &[("c.y", Some("2"))]);
        check("[a \"b\nx = 1\n[c]\ny = 2", &[("c.y", Some("2"))]);
        check("[a \"b\" ]\nx = 1", &[]);
        check("[a]\nb = \\x\nc = \"d\ne = 1\n1f = 1\ng h = 1\ni", &[("a.e", Some("1")), ("a.i", None)]);
        check("[a", &[]);
        check("[a \"", &[]);
        check("[a]\nb = \\", &[("a.b", Some(""))]);
    }
}
