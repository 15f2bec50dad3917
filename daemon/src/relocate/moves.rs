//! Where paths of an origin lead on this machine, and how such paths are found and replaced in a text.
//!
//! A path is matched from its first byte to a component's end: `/home/a/ws` is neither in `/home/a/ws2` nor in
//! `/mnt/home/a/ws`. Texts are bytes; nothing in them has to be UTF-8.

use std::os::unix::ffi::OsStrExt;

use crate::workspace::Root;

/// Directory trees that lie elsewhere than on their origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moves(Vec<Move>);

/// One of them. Both paths are absolute, without a slash at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

/// Which paths in a text are meant, and how a new one is written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Words of a shell, quoted or not.
    Shell,
    /// What a quote begins: strings of Python and JSON.
    Strings,
    /// Words, also after a compiler's option (`-I/opt/include`). There is no quoting.
    Words,
}

/// What became of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    pub(super) bytes: Vec<u8>,
    /// How often a path was replaced, by the move.
    pub(super) replaced: Vec<(Move, u32)>,
}

/// The new path cannot be written where the old one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub(super) &'static str);

/// Bytes that are looked back from a path for where its word begins: more than an option in front of it has.
const OPTION_BYTES_MAX: usize = 32;

/// Of a new path with characters that mean something else there.
const UNWRITABLE: Unfit = Unfit("the new path holds characters that cannot be written in it");

impl Moves {
    /// Those of `roots` that lie elsewhere.
    pub(super) fn of<'r>(roots: impl IntoIterator<Item = &'r Root>) -> Self {
        let bytes = |path: &std::path::Path| {
            let bytes = path.as_os_str().as_bytes();
            bytes.strip_suffix(b"/").unwrap_or(bytes).to_vec()
        };
        let moves = roots.into_iter().map(|root| Move { from: bytes(&root.origin), to: bytes(&root.here) });
        let is_one = |moved: &Move| {
            moved.from != moved.to && moved.from.starts_with(b"/") && moved.to.starts_with(b"/")
        };
        let mut moves: Vec<_> = moves.filter(is_one).collect();
        // A tree that lies in another one is found first.
        moves.sort_by_key(|moved| std::cmp::Reverse(moved.from.len()));
        Self(moves)
    }

    /// True when everything lies where it did.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a whole path leads now; nothing for one that leads into none of the trees, or out of its tree again.
    pub(super) fn path(&self, path: &[u8]) -> Option<(Vec<u8>, &Move)> {
        let (moved, rest) = self.0.iter().find_map(|moved| {
            let rest = path.strip_prefix(moved.from.as_slice())?;
            (rest.is_empty() || rest[0] == b'/').then_some((moved, rest))
        })?;
        (!climbs_out(rest)).then(|| ([moved.to.as_slice(), rest].concat(), moved))
    }

    /// Replaces the paths in `text`; nothing when there are none.
    pub(super) fn text(&self, text: &[u8], style: Style) -> Result<Option<Rewritten>, Unfit> {
        let mut rewritten = Rewritten { bytes: Vec::new(), replaced: Vec::new() };
        let mut done = 0;
        let mut at = 0;
        while let Some(slash) = text[at..].iter().position(|byte| *byte == b'/') {
            at += slash;
            let found = self.0.iter().find(|moved| is_here(text, at, moved, style));
            let Some(moved) = found else {
                at += 1;
                continue;
            };
            rewritten.bytes.extend_from_slice(&text[done..at]);
            rewritten.bytes.extend(written(&moved.to, is_quoted(&text[..at]), style)?);
            rewritten.count(moved);
            at += moved.from.len();
            done = at;
        }
        rewritten.bytes.extend_from_slice(&text[done..]);
        Ok((!rewritten.replaced.is_empty()).then_some(rewritten))
    }
}

impl Rewritten {
    /// A text with one path replaced.
    pub(super) fn once(bytes: Vec<u8>, moved: &Move) -> Self {
        Self { bytes, replaced: vec![(moved.clone(), 1)] }
    }

    /// Notes one more.
    pub(super) fn count(&mut self, moved: &Move) {
        self.add(moved, 1);
    }

    /// Notes what was replaced in another part of the same text.
    pub(super) fn add_all(&mut self, others: &[(Move, u32)]) {
        others.iter().for_each(|(moved, times)| self.add(moved, *times));
    }

    fn add(&mut self, moved: &Move, times: u32) {
        match self.replaced.iter_mut().find(|(known, _)| known == moved) {
            Some((_, known)) => *known += times,
            None => self.replaced.push((moved.clone(), times)),
        }
    }
}

/// True where a path into the tree begins at `at`.
fn is_here(text: &[u8], at: usize, moved: &Move, style: Style) -> bool {
    let (before, path) = text.split_at(at);
    let Some(rest) = path.strip_prefix(moved.from.as_slice()) else { return false };
    if rest.first().is_some_and(|next| is_of_name(*next)) || !begins(before, style) {
        return false;
    }
    // After the look at what is before: no part of a text is then looked at for more than one path.
    let length = rest.iter().position(|byte| !is_of_name(*byte) && *byte != b'/').unwrap_or(rest.len());
    !climbs_out(&rest[..length])
}

/// True when a path may begin after `before`.
fn begins(before: &[u8], style: Style) -> bool {
    if style == Style::Strings {
        return is_quoted(before);
    }
    let near = &before[before.len().saturating_sub(OPTION_BYTES_MAX)..];
    let start = near.iter().rposition(|byte| is_delimiter(*byte)).map_or(0, |last| last + 1);
    match &near[start..] {
        [] => true,
        [b'-', option @ ..] => {
            style == Style::Words && !option.is_empty() && option.iter().all(u8::is_ascii_alphabetic)
        }
        _ => false,
    }
}

fn is_quoted(before: &[u8]) -> bool {
    matches!(before.last(), Some(b'"' | b'\''))
}

/// True for what stands between words and paths.
fn is_delimiter(byte: u8) -> bool {
    byte <= b' ' || b"\"'=:,;()<>|&`![]{".contains(&byte)
}

/// True for what goes on with a name in a path. A name may hold other characters too; none that can follow a path.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.+~%@#".contains(&byte) || byte >= 0x80
}

/// True if the `..` in the rest of a path lead above where it begins.
fn climbs_out(rest: &[u8]) -> bool {
    let mut depth = 0;
    rest.split(|byte| *byte == b'/').any(|name| {
        depth += match name {
            b"" | b"." => 0,
            b".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

/// The new path as it is written in the text.
fn written(to: &[u8], quoted: bool, style: Style) -> Result<Vec<u8>, Unfit> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte) || *byte >= 0x80;
    if to.iter().all(plain) {
        return Ok(to.to_vec());
    }
    if to.iter().any(|byte| byte.is_ascii_control() || b"\"'`$\\!".contains(byte)) {
        return Err(UNWRITABLE);
    }
    match style {
        Style::Shell | Style::Strings if quoted => Ok(to.to_vec()),
        // A word may be quoted in part.
        Style::Shell => Ok([b"'", to, b"'"].concat()),
        Style::Strings | Style::Words => Err(UNWRITABLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(all: &[(&str, &str)]) -> Moves {
        let roots = all.iter().map(|(origin, here)| Root { origin: origin.into(), here: here.into() });
        Moves::of(&roots.collect::<Vec<_>>())
    }

    #[test]
    fn a_whole_path_leads_where_its_tree_lies() {
        let moves = moves(&[("/h/ws", "/n"), ("/h/ws/py", "/k/1"), ("/opt/p/", "/k/2"), ("/same", "/same")]);
        for (path, expected) in [
            ("/h/ws", Some("/n")),
            ("/h/ws/", Some("/n/")),
            ("/h/ws/a/../b", Some("/n/a/../b")),
            ("/h/ws/py/bin", Some("/k/1/bin")),
            ("/h/ws/py2", Some("/n/py2")),
            ("/opt/p/x y", Some("/k/2/x y")),
            ("/h/ws2", None),
            ("/h/ws/../x", None),
            ("/h/ws/a/../../x", None),
            ("/same/x", None),
            ("h/ws", None),
            ("", None),
        ] {
            let found = moves.path(path.as_bytes()).map(|(path, _)| String::from_utf8(path).unwrap());
            assert_eq!(found.as_deref(), expected, "{path}");
        }
        assert!(self::moves(&[("/same", "/same/"), ("relative", "/x")]).is_empty());
    }

    #[track_caller]
    fn check(style: Style, text: &str, expected: &str) {
        let moves = moves(&[("/h/ws", "/n"), ("/opt/p", "/k/2")]);
        let found = moves.text(text.as_bytes(), style).unwrap();
        let found = found.map_or(text.to_owned(), |found| String::from_utf8(found.bytes).unwrap());
        assert_eq!(found, expected, "{style:?}");
    }

    #[test]
    fn paths_in_a_text_begin_and_end_at_components() {
        use Style::{Shell, Strings, Words};
        check(Shell, "V=\"/h/ws/v\" '/h/ws' /h/ws;/opt/p", "V=\"/n/v\" '/n' /n;/k/2");
        check(
            Shell,
            "/h/ws2 /h/ws-a /h/ws.b /mnt/h/ws $A/h/ws ../h/ws",
            "/h/ws2 /h/ws-a /h/ws.b /mnt/h/ws $A/h/ws ../h/ws",
        );
        check(Shell, "P=/h/ws/b:/opt/p/b:/h/ws/../c", "P=/n/b:/k/2/b:/h/ws/../c");
        check(Shell, "-I/h/ws", "-I/h/ws");
        check(Words, "-I/h/ws -Wl,-rpath,/opt/p/lib --x=/h/ws", "-I/n -Wl,-rpath,/k/2/lib --x=/n");
        check(Words, "-1/h/ws -/h/ws", "-1/h/ws -/h/ws");
        check(Strings, "{'a': '/h/ws/a', b: /h/ws} \"/opt/p\"", "{'a': '/n/a', b: /h/ws} \"/k/2\"");
        check(Words, "/h/ws", "/n");
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let moves = moves(&[("/h/ws", "/n")]);
        let found = moves.text(b"\xff\0/h/ws\0/h/ws\xff", Style::Words).unwrap().unwrap();
        assert_eq!(found.bytes, b"\xff\0/n\0/h/ws\xff");
        assert_eq!(found.replaced.iter().map(|(_, times)| *times).collect::<Vec<_>>(), [1]);
        assert_eq!(moves.text(b"nothing", Style::Words), Ok(None));
    }

    #[test]
    fn a_text_of_nothing_but_paths_takes_no_longer() {
        let text = b"/h/ws".repeat(200_000);
        let began = std::time::Instant::now();
        let found = moves(&[("/h/ws", "/n")]).text(&text, Style::Words).unwrap().unwrap();
        assert_eq!(found.replaced[0].1, 1);
        assert!(began.elapsed().as_secs() < 5);
    }

    #[test]
    fn a_new_path_is_quoted_where_that_can_be_done() {
        let check = |to: &str, style, text: &str, expected: Option<&str>| {
            let found = moves(&[("/h/ws", to)]).text(text.as_bytes(), style);
            let found = found.ok().map(|found| String::from_utf8(found.unwrap().bytes).unwrap());
            assert_eq!(found.as_deref(), expected, "{to}");
        };
        check("/m y", Style::Shell, "a=/h/ws/v", Some("a='/m y'/v"));
        check("/m y", Style::Shell, "a=\"/h/ws/v\"", Some("a=\"/m y/v\""));
        check("/m y", Style::Strings, "a='/h/ws/v'", Some("a='/m y/v'"));
        check("/m y", Style::Words, "a=/h/ws/v", None);
        check("/ü", Style::Words, "a=/h/ws/v", Some("a=/ü/v"));
        for unwritable in ["/a'b", "/a\"b", "/a$b", "/a\nb", "/a\\b", "/a`b"] {
            check(unwritable, Style::Shell, "a='/h/ws/v'", None);
        }
    }

    #[test]
    fn a_new_path_that_holds_the_old_one_is_replaced_once() {
        let found = moves(&[("/w", "/w/clones/w")]).text(b"/w /w/clones/w", Style::Words).unwrap().unwrap();
        assert_eq!(found.bytes, b"/w/clones/w /w/clones/w/clones/w");
    }
}
