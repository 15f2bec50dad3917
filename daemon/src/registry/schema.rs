//! The form of the database, and how an older one is brought to it.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::RegistryError;

/// Marks the file as ours (`application_id`): "twin".
const APPLICATION_ID: i64 = 0x7477_696e;

/// Each step brings a database from the version of its index to the next; `user_version` holds how many were taken.
/// A step that has been released is never changed.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE workspaces (
         id INTEGER PRIMARY KEY AUTOINCREMENT,
         name TEXT NOT NULL UNIQUE,
         directory BLOB NOT NULL UNIQUE,
         created INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE shares (
         workspace INTEGER PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
         mode TEXT NOT NULL CHECK (mode IN ('open', 'closed')),
         since INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE peers (
         peer BLOB PRIMARY KEY CHECK (length(peer) = 32),
         name TEXT NOT NULL,
         addresses TEXT NOT NULL,
         host TEXT,
         public_key BLOB,
         first_seen INTEGER NOT NULL,
         last_seen INTEGER
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE snapshots (
         snapshot BLOB PRIMARY KEY CHECK (length(snapshot) = 32),
         workspace INTEGER NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
         created INTEGER NOT NULL,
         entries INTEGER NOT NULL,
         file_bytes INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX snapshots_of_workspace ON snapshots (workspace, created);
     CREATE TABLE leases (
         snapshot BLOB NOT NULL REFERENCES snapshots (snapshot) ON DELETE CASCADE,
         peer BLOB NOT NULL CHECK (length(peer) = 32),
         last_contact INTEGER NOT NULL,
         expires INTEGER NOT NULL,
         PRIMARY KEY (snapshot, peer)
     ) STRICT, WITHOUT ROWID;",
    // The companions a share covers; none for those made before: they are told to share again. What a mode may be is
    // decided by the code that reads it, so that a further one needs no new table.
    "CREATE TABLE shares_now (
         workspace INTEGER PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
         mode TEXT NOT NULL,
         since INTEGER NOT NULL,
         companions BLOB NOT NULL DEFAULT x''
     ) STRICT;
     INSERT INTO shares_now (workspace, mode, since) SELECT workspace, mode, since FROM shares;
     DROP TABLE shares;
     ALTER TABLE shares_now RENAME TO shares;",
    // Which leases a peer has only because it watches, in the order in which it was told of their snapshots. Those made
    // before were all asked for.
    "ALTER TABLE leases ADD COLUMN watched INTEGER;",
];

/// Checks that the file is a whole registry and migrates it.
pub(super) fn prepare(connection: &mut Connection, file: &Path) -> Result<(), RegistryError> {
    prepare_as_of(connection, file, MIGRATIONS.len())
}

/// The same as the version that knew the first `known` steps did it.
pub(super) fn prepare_as_of(
    connection: &mut Connection,
    file: &Path,
    known: usize,
) -> Result<(), RegistryError> {
    check(connection, file)?;
    // A share or a lease that a power cut forgets would be a lie to a peer: FULL, at a few milliseconds a write.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Immediate: of two processes that open a new file at once, one migrates and the other finds it done.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    migrate(&transaction, file, &MIGRATIONS[..known])?;
    Ok(transaction.commit()?)
}

/// An empty file is new; any other must be ours and whole.
fn check(connection: &Connection, file: &Path) -> Result<(), RegistryError> {
    let damaged = |what: String| RegistryError::Damaged { path: file.into(), what };
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("schema_version")? == 0 {
        return Ok(());
    }
    if pragma("application_id")? != APPLICATION_ID {
        return Err(damaged("it is another program's database".into()));
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(damaged(found)),
    }
}

fn migrate(transaction: &Transaction<'_>, file: &Path, known: &[&str]) -> Result<(), RegistryError> {
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let taken = usize::try_from(version).unwrap_or(usize::MAX);
    let steps = known.get(taken..).ok_or_else(|| RegistryError::Newer { path: file.into() })?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known.len() as i64)?;
    Ok(())
}
