//! Runs on a terminal: it stays the user's, and what it sends reaches the command.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use crate::place::{Place, Who};

/// A launched command on a terminal of its own.
struct Terminal {
    child: Child,
    keys: std::process::ChildStdin,
    screen: BufReader<std::process::ChildStdout>,
    seen: String,
}

impl Terminal {
    fn new(place: &Place, command: &[&str]) -> Self {
        let launcher = place.launcher(command);
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
        let words = std::iter::once(launcher.get_program()).chain(launcher.get_args());
        let mut script = Command::new("script");
        // A shell that stayed would be the terminal's, too, and end at Ctrl-C before the command does.
        let line = format!("exec {}", words.map(quoted).collect::<Vec<_>>().join(" "));
        script.args(["-qec", &line, "/dev/null"]);
        script.envs(launcher.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keys, screen: BufReader::new(screen), seen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads lines up to one that starts with `text`: what is typed appears after a prompt, what is printed does not.
    fn wait_for(&mut self, text: &str) {
        loop {
            let from = self.seen.len();
            assert_ne!(self.screen.read_line(&mut self.seen).unwrap(), 0, "no {text:?}: {}", self.seen);
            if self.seen[from..].trim_start_matches('\r').starts_with(text) {
                return;
            }
        }
    }

    /// Everything that appeared, once the command has ended.
    fn end(mut self) -> (String, Option<i32>) {
        self.screen.read_to_string(&mut self.seen).unwrap();
        (self.seen, self.child.wait().unwrap().code())
    }
}

#[test]
fn a_terminal_stays_the_users() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let test = "test -t 0 && test -t 1 && test -t 2 && stty size < /dev/tty && echo all";
        let (seen, code) = Terminal::new(&place, &["sh", "-c", test]).end();
        assert!(seen.contains("all") && code == Some(0), "{code:?}: {seen}");
        // Typing for the user is refused.
        let typing =
            "import fcntl\ntry: fcntl.ioctl(0, 0x5412, b'x')\nexcept OSError as e: print('refused', e.errno)";
        let (seen, _) = Terminal::new(&place, &["/usr/bin/python3", "-c", typing]).end();
        assert!(seen.contains("refused 1"), "{seen}");
    }
}

#[test]
fn a_shell_inside_has_job_control() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        let mut terminal = Terminal::new(&place, &["bash", "--norc", "-i"]);
        for (key, printed) in [("\x03", "code-130"), ("\x1a", "code-148")] {
            terminal.press("sh -c 'echo is-up; exec sleep 1000'\n");
            terminal.wait_for("is-up");
            terminal.press(key);
            terminal.press("echo code-$?\n");
            terminal.wait_for(printed);
        }
        terminal.press("kill %1; fg; exit 5\n");
        let (seen, code) = terminal.end();
        assert_eq!(code, Some(5), "{seen}");
    }
}

#[test]
fn ctrl_c_ends_the_command_and_not_its_surroundings() {
    for who in Who::all() {
        let place = Place::new(who, "/home/alice/ws", &[]);
        // The command handles the interrupt and needs a moment for it: whoever ended first would take it along.
        let script = "trap 'sleep 0.3; echo tidied-up; exit 9' INT; echo ready; while :; do sleep 0.05; done";
        let mut terminal = Terminal::new(&place, &["sh", "-c", script]);
        terminal.wait_for("ready");
        terminal.press("\x03");
        let (seen, code) = terminal.end();
        assert!(seen.contains("tidied-up") && code == Some(9), "{code:?}: {seen}");
    }
}
