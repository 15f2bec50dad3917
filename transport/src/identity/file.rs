//! The identity's file: PKCS#8 in PEM, readable by its owner alone, created once and never overwritten.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rustix::fs::OFlags;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use super::Identity;

/// Bytes of the file at most; a key takes 200.
const FILE_BYTES_MAX: u64 = 8 * 1024;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its directory cannot be used.
    #[error("cannot {action} the identity file {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error(
        "the identity file {} may be read by others (mode {mode:03o}): whoever has it is this node. \
         If nobody else has seen it, run: chmod 600 {}", path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("the identity file {} belongs to user {owner}, not to the user this node runs as", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// It holds something else.
    #[error(
        "{} does not hold an Ed25519 private key. Move it away to make a new identity; peers will not recognise this \
         node by it", path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random numbers.
    #[error("the system's random number generator failed")]
    NoRandom,
}

pub(super) fn load_or_create(path: &Path) -> Result<Identity, IdentityError> {
    loop {
        match open(path) {
            Ok(file) => return load(path, file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("open", path, source)),
        }
        match create(path) {
            Ok(identity) => return Ok(identity),
            // Another process was faster: its key is the node's.
            Err(IdentityError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

fn load(path: &Path, file: File) -> Result<Identity, IdentityError> {
    let metadata = file.metadata().map_err(|source| io_error("examine", path, source))?;
    let not_a_key = || IdentityError::NotAKey { path: path.into() };
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(not_a_key());
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(IdentityError::Foreign { path: path.into(), owner: metadata.uid() });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.into(), mode });
    }
    let mut pem = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut pem).map_err(|source| io_error("read", path, source))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| not_a_key())?;
    Identity::from_pkcs8(key.secret_pkcs8_der()).ok_or_else(not_a_key)
}

/// Writes a new key to a file of its own and links it to `path`: the file appears whole or not at all, and replaces
/// nothing.
fn create(path: &Path) -> Result<Identity, IdentityError> {
    let identity = Identity::generate()?;
    let temporary = temporary_name(path, &identity);
    let written = write(&temporary, &identity).and_then(|()| std::fs::hard_link(&temporary, path));
    // Whether or not it was linked, the temporary name has done its work; failing to remove it harms nobody.
    let _ = std::fs::remove_file(&temporary);
    written.and_then(|()| sync_directory(path)).map_err(|source| io_error("create", path, source))?;
    Ok(identity)
}

/// Next to the file, unique by the new key's own id.
fn temporary_name(path: &Path, identity: &Identity) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", identity.peer_id().short()));
    name.into()
}

fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem(identity.private_key().secret_pkcs8_der()).as_bytes())?;
    file.sync_all()
}

fn pem(der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let lines = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    let body: String = lines.collect();
    format!(
        "This is a twinshare node's identity. Whoever has this file is that node: do not copy it.\n\
         -----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n"
    )
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_made_once_private_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(directory.path()), ["identity"]);
        assert_eq!(Identity::load_or_create(&path).unwrap().peer_id(), made.peer_id());
    }

    #[test]
    fn processes_that_start_at_once_agree_on_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let start = || Identity::load_or_create(&path).unwrap().peer_id();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(names(directory.path()), ["identity"]);
    }

    #[test]
    fn a_file_others_may_read_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        Identity::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Exposed { mode: m, .. } if m == mode), "{error:?}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let check = |content: &[u8]| {
            write_private(&path, content);
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::NotAKey { .. }), "{error:?}");
            assert_eq!(fs::read(&path).unwrap(), content);
        };
        check(b"");
        check(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        check(&[b'x'; 100_000]);
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        symlink(directory.path().join("elsewhere"), &path).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Io { action: "open", .. }), "{error:?}");
    }

    fn write_private(path: &Path, content: &[u8]) {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        file.write_all(content).unwrap();
    }
}
