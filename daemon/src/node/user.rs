//! The user the node runs for, as programs know one: by name, home and shell.

use std::env;
use std::fs;

use crate::runtime::Caller;

/// The shell where none is known.
const SHELL: &str = "/bin/sh";

/// A user and the shell they use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) caller: Caller,
    pub(crate) shell: String,
}

impl User {
    /// The node's own user. `/etc/passwd` decides, and where it does not know the user (a directory service, a
    /// container), the environment.
    pub(crate) fn of_this_process() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find(uid, &passwd, |name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn find(uid: u32, passwd: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let is_user = |line: &Vec<&str>| line.len() == 7 && line[2].parse() == Ok(uid);
        let line = fields.into_iter().find(is_user);
        let field =
            |at: usize| line.as_ref().map(|line| line[at].to_owned()).filter(|field| !field.is_empty());
        let caller = Caller {
            uid,
            name: field(0).or_else(|| variable("USER")).unwrap_or_else(|| uid.to_string()),
            home: field(5).or_else(|| variable("HOME")).unwrap_or_else(|| "/".to_owned()),
        };
        Self { caller, shell: field(6).or_else(|| variable("SHELL")).unwrap_or_else(|| SHELL.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nanna:x:1000:1000::/home/anna:\n";

    #[track_caller]
    fn check(uid: u32, variables: &[(&str, &str)], expected: [&str; 3]) {
        let variable = |wanted: &str| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        let user = User::find(uid, PASSWD, variable);
        assert_eq!([&user.caller.name, &user.caller.home, &user.shell], expected);
    }

    #[test]
    fn a_user_is_known_or_taken_from_the_environment() {
        let environment = [("USER", "u"), ("HOME", "/h"), ("SHELL", "/bin/zsh")];
        check(0, &environment, ["root", "/root", "/bin/bash"]);
        check(1000, &environment, ["anna", "/home/anna", "/bin/zsh"]);
        check(7, &environment, ["u", "/h", "/bin/zsh"]);
        check(7, &[], ["7", "/", "/bin/sh"]);
    }
}
