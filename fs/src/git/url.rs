//! Addresses of git repositories, without what is secret in them and without those that run something.

/// The address without credentials; `None` for one that is not taken over.
///
/// Taken over are `https://`, `http://`, `ssh://`, `git://` and the short form `[user@]host:path` of ssh. Of the user
/// part, an ssh user stays (`git@`), everything else goes: tokens stand there. Never taken over are transport helpers
/// (`ext::sh -c …` runs a command), paths and `file://` (they would name something on the receiver's disk), and hosts
/// that are not plainly one: ssh would take a leading `-` for an option, and its configuration may hand a host's name
/// to a shell.
pub(super) fn without_credentials(url: &[u8]) -> Option<Vec<u8>> {
    if !super::rewrite::is_plain(url) {
        return None;
    }
    match find(url, b"://") {
        Some(at) => with_scheme(&url[..at], &url[at + 3..]),
        None => short(url),
    }
}

fn with_scheme(scheme: &[u8], rest: &[u8]) -> Option<Vec<u8>> {
    if !matches!(scheme, b"https" | b"http" | b"ssh" | b"git") {
        return None;
    }
    let (authority, path) = rest.split_at(rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len()));
    let (user, host) = split_user(authority);
    let user = match (scheme, user) {
        (b"ssh", Some(user)) => Some(ssh_user(user)?),
        _ => None,
    };
    if !is_host_and_port(host) {
        return None;
    }
    // What follows `?` or `#` may be a token, and no forge needs it.
    let end = match scheme {
        b"ssh" => path.len(),
        _ => path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len()),
    };
    let mut out = [scheme, b"://"].concat();
    out.extend(user.iter().flat_map(|user| [user, &b"@"[..]]).flatten());
    out.extend_from_slice(host);
    out.extend_from_slice(&path[..end]);
    Some(out)
}

/// `[user@]host:path`.
fn short(url: &[u8]) -> Option<Vec<u8>> {
    let (authority, path) = url.split_at(url.iter().position(|byte| *byte == b':')?);
    let path = &path[1..];
    let (user, host) = split_user(authority);
    let user = user.map_or(Some(&b""[..]), ssh_user)?;
    if !is_host(host) || path.is_empty() || matches!(path[0], b':' | b'-') {
        return None;
    }
    let at: &[u8] = if user.is_empty() { b"" } else { b"@" };
    Some([user, at, host, b":", path].concat())
}

fn split_user(authority: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (Some(&authority[..at]), &authority[at + 1..]),
        None => (None, authority),
    }
}

/// The user of `user[:password]`.
fn ssh_user(user: &[u8]) -> Option<&[u8]> {
    let user = user.split(|byte| *byte == b':').next()?;
    is_host(user).then_some(user)
}

fn is_host_and_port(host: &[u8]) -> bool {
    let (host, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host.ends_with(b"]") => (&host[..colon], &host[colon + 1..]),
        _ => (host, &b""[..]),
    };
    let address = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let is_address = |address: &[u8]| {
        !address.is_empty()
            && address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
    };
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && address.map_or_else(|| is_host(host), is_address)
}

/// A host's name, and just as well a user's: nothing a shell or ssh would act on.
fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host[0] != b'-'
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        let found = without_credentials(url.as_bytes()).map(|url| String::from_utf8(url).unwrap());
        assert_eq!(found.as_deref(), expected, "{url:?}");
        if let Some(found) = found {
            let again = without_credentials(found.as_bytes()).map(|url| String::from_utf8(url).unwrap());
            assert_eq!(again.as_deref(), expected, "{url:?} is cleaned in two steps");
        }
    }

    #[test]
    fn credentials_go_and_addresses_stay() {
        check("https://github.com/a/b.git", Some("https://github.com/a/b.git"));
        check("https://user:token@github.com:443/a", Some("https://github.com:443/a"));
        check("https://token@github.com/a", Some("https://github.com/a"));
        check("https://a@b:c@host/x", Some("https://host/x"));
        check("https://host/a?private_token=x#y", Some("https://host/a"));
        check("https://host", Some("https://host"));
        check("http://[::1]:8080/a", Some("http://[::1]:8080/a"));
        check("ssh://git@host:22/a b", Some("ssh://git@host:22/a b"));
        check("ssh://git:secret@host/~/a", Some("ssh://git@host/~/a"));
        check("git://u@host/a", Some("git://host/a"));
        check("git@github.com:a/b.git", Some("git@github.com:a/b.git"));
        check("host:a", Some("host:a"));
    }

    #[test]
    fn what_could_run_or_name_the_receivers_files_is_not_taken_over() {
        for url in [
            "",
            "/srv/git/a",
            "../a",
            "a",
            "file:///srv/a",
            "ext::sh -c id",
            "a::b",
            "a::https://x/",
            "HTTPS://x/",
            "ftp://x/",
            "ssh://-oProxyCommand=id/x",
            "ssh://-o@x/x",
            "ssh://`id`/x",
            "ssh://a;b@c/x",
            "ssh://host:1a/x",
            "ssh:///x",
            "https://user:pa/ss@host/x",
            "https://ho%2dst/x",
            "-oProxyCommand=id:x",
            "host:-x",
            "host:",
            ":x",
            "a/b:c",
            "https://host/a\nb",
            "https://host/a\x1b[2J",
        ] {
            check(url, None);
        }
    }
}
