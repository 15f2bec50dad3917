//! The first line of a script: which interpreter it names, and how it names another one.
//!
//! The kernel takes some hundred bytes and no spaces there. Where that is not enough, pip and uv write a line that is a
//! shell's `exec` to `/bin/sh` and a string to Python, and so is done here:
//!
//! ```text
//! #!/bin/sh
//! '''exec' "/a long/path/to/python" "$0" "$@"
//! ' '''
//! ```

use super::moves::{Moves, Rewritten, Unfit};

/// Bytes of a first line at most, its end included: what pip keeps to. Kernels before 5.1 take 128 (`BINPRM_BUF_SIZE`).
const LINE_BYTES_MAX: usize = 127;

/// How the second line of the long form begins.
const LONG: &[u8] = b"#!/bin/sh\n'''exec' ";

/// Rewrites the interpreter in a script's first line; the rest stays, whatever it is.
pub(super) fn script(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    match content.strip_prefix(LONG) {
        Some(rest) => long(rest, moves),
        None => short(content, moves),
    }
}

fn short(content: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    let Some(line) = content.strip_prefix(b"#!") else { return Ok(None) };
    let (line, rest) = split_at_byte(line, b'\n');
    let line = line.trim_ascii_start();
    let (interpreter, options) = split_at_byte(line, b' ');
    let Some((interpreter, moved)) = moves.path(interpreter) else { return Ok(None) };
    let options = options.trim_ascii();
    let gap: &[u8] = if options.is_empty() { b"" } else { b" " };
    let line = [b"#!", interpreter.as_slice(), gap, options].concat();
    let is_taken = line.len() < LINE_BYTES_MAX && !interpreter.iter().any(u8::is_ascii_whitespace);
    let bytes = match is_taken {
        true => [line.as_slice(), rest].concat(),
        false if is_python(&interpreter) => {
            let words = [shell_word(&interpreter)?.as_slice(), gap, options].concat();
            [LONG, &words, b" \"$0\" \"$@\"\n' '''", rest].concat()
        }
        false => return Err(Unfit("its first line would be longer than the kernel takes, or hold a space")),
    };
    Ok(Some(Rewritten::once(bytes, moved)))
}

/// `rest` begins with the interpreter.
fn long(rest: &[u8], moves: &Moves) -> Result<Option<Rewritten>, Unfit> {
    let (interpreter, rest) = match rest.first() {
        Some(quote @ (b'"' | b'\'')) => {
            let (quoted, rest) = split_at_byte(&rest[1..], *quote);
            (quoted, rest.get(1..).unwrap_or_default())
        }
        _ => split_at_byte(rest, b' '),
    };
    let Some((interpreter, moved)) = moves.path(interpreter) else { return Ok(None) };
    let bytes = [LONG, &shell_word(&interpreter)?, rest].concat();
    Ok(Some(Rewritten::once(bytes, moved)))
}

/// A path as a word that a shell and a string of Python both take.
fn shell_word(path: &[u8]) -> Result<Vec<u8>, Unfit> {
    if path.iter().any(|byte| byte.is_ascii_control() || b"\"'`$\\".contains(byte)) {
        return Err(Unfit("the new path holds characters that cannot be written in its first lines"));
    }
    let is_plain = path.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte));
    Ok(if is_plain { path.to_vec() } else { [b"\"", path, b"\""].concat() })
}

/// True for `…/python`, `…/python3.11` and the like.
fn is_python(interpreter: &[u8]) -> bool {
    let name = interpreter.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b"python") || name.starts_with(b"pypy")
}

/// What is before the first `byte`, and the rest from it on.
fn split_at_byte(text: &[u8], byte: u8) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|other| *other == byte).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Root;

    #[track_caller]
    fn check(to: &str, content: &str, expected: Result<Option<&str>, ()>) {
        let moves = Moves::of(&[Root { origin: "/h/ws".into(), here: to.into() }]);
        let found = script(content.as_bytes(), &moves);
        let found = found.map(|found| found.map(|found| String::from_utf8(found.bytes).unwrap()));
        assert_eq!(found.map_err(drop), expected.map(|text| text.map(str::to_owned)), "{content:?} to {to}");
    }

    #[test]
    fn the_interpreter_is_replaced() {
        check(
            "/n",
            "#!/h/ws/v/bin/python\nprint('/h/ws')\n",
            Ok(Some("#!/n/v/bin/python\nprint('/h/ws')\n")),
        );
        check("/n", "#!/h/ws/v/bin/python -sE\nx", Ok(Some("#!/n/v/bin/python -sE\nx")));
        check("/n", "#! /h/ws/v/bin/perl", Ok(Some("#!/n/v/bin/perl")));
        for other in [
            "#!/usr/bin/env python\n",
            "#!/h/ws2/python\n",
            "import x\n",
            "",
            "#!",
            "#!/bin/sh\nexec /h/ws/x",
        ] {
            check("/n", other, Ok(None));
        }
    }

    #[test]
    fn a_long_or_spaced_path_takes_two_lines() {
        let long = format!("/{}", "l".repeat(120));
        let trampoline = |word: &str| format!("#!/bin/sh\n'''exec' {word} \"$0\" \"$@\"\n' '''\nbody");
        check(&long, "#!/h/ws/python\nbody", Ok(Some(&trampoline(&format!("{long}/python")))));
        check("/a b", "#!/h/ws/python3\nbody", Ok(Some(&trampoline("\"/a b/python3\""))));
        check("/a b", "#!/h/ws/python3 -I\nbody", Ok(Some(&trampoline("\"/a b/python3\" -I"))));
        check("/a b", "#!/h/ws/perl\nbody", Err(()));
        check("/a'b c", "#!/h/ws/python\nbody", Err(()));
        // The longest line that is taken has 127 bytes with its end.
        let fits = format!("/{}", "l".repeat(127 - "#!//python\n".len()));
        check(&fits, "#!/h/ws/python\n", Ok(Some(&format!("#!{fits}/python\n"))));
        check(&format!("{fits}l"), "#!/h/ws/perl12\n", Err(()));
    }

    #[test]
    fn the_long_form_stays_the_long_form() {
        let text = |word: &str| format!("#!/bin/sh\n'''exec' {word} \"$0\" \"$@\"\n' '''\nimport re\n");
        check("/n", &text("/h/ws/v/bin/python"), Ok(Some(&text("/n/v/bin/python"))));
        check("/n", &text("'/h/ws/v/bin/python'"), Ok(Some(&text("/n/v/bin/python"))));
        check("/n m", &text("\"/h/ws/v/bin/python\""), Ok(Some(&text("\"/n m/v/bin/python\""))));
        check("/n", &text("/usr/bin/python3"), Ok(None));
        check("/n", "#!/bin/sh\n'''exec' \"/h/ws", Ok(Some("#!/bin/sh\n'''exec' /n")));
    }
}
