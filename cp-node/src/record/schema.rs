//! The record's tables. A migration, once released, is never changed: the next one follows it.

use daemon::failpoint;

use super::Trouble;
use super::link::Session;

/// Migrations by version, counted from 1.
///
/// Bodies are text: `jsonb` would give them back in another order. The view casts, and gives NULL where a body cannot be
/// cast, so that no body can ever hold the writer up.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE holdfast.cursor (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        cluster text NOT NULL,
        epoch bigint NOT NULL,
        restore_id text NOT NULL,
        revision bigint NOT NULL,
        chain bytea NOT NULL,
        digest bytea NOT NULL,
        writer_term bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE holdfast.history (
        epoch bigint NOT NULL,
        revision bigint NOT NULL,
        seq integer NOT NULL,
        kind text COLLATE \"C\" NOT NULL,
        id text COLLATE \"C\" NOT NULL,
        op text NOT NULL CHECK (op IN ('base', 'create', 'update', 'delete')),
        old_body text,
        body text,
        meta bytea,
        author text NOT NULL,
        request text NOT NULL,
        time_ms bigint NOT NULL,
        chain bytea NOT NULL,
        PRIMARY KEY (epoch, revision, seq)
    );
    CREATE INDEX history_by_resource ON holdfast.history (kind, id, epoch, revision);
    CREATE INDEX history_by_author ON holdfast.history (author, epoch, revision);
    CREATE TABLE holdfast.current (
        kind text COLLATE \"C\" NOT NULL,
        id text COLLATE \"C\" NOT NULL,
        revision bigint NOT NULL,
        body text NOT NULL,
        meta bytea NOT NULL,
        PRIMARY KEY (kind, id)
    );
    CREATE FUNCTION holdfast.as_jsonb(body text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
        BEGIN RETURN body::jsonb; EXCEPTION WHEN others THEN RETURN NULL; END $$;
    CREATE VIEW holdfast.resources AS
        SELECT kind, id, revision, holdfast.as_jsonb(body) AS body FROM holdfast.current;
",
    "
    ALTER TABLE holdfast.cursor ADD claimed_epoch bigint, ADD claimed_restore text;
",
];

/// Names the lock under which schemas are changed: nodes that start together take turns.
const LOCK: i64 = 0x686f_6c64_6661_7374;

/// The version that this build brings the schema to.
fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Brings the schema to this build's version.
pub(super) async fn migrate(session: &mut Session) -> Result<(), Trouble> {
    if version(session).await? == Some(newest()) {
        return Ok(());
    }
    let limit = session.statement_max;
    let migrating = async {
        let transaction = session.client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        transaction
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS holdfast;
                 CREATE TABLE IF NOT EXISTS holdfast.migration
                    (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());",
            )
            .await?;
        let row = transaction.query_one("SELECT coalesce(max(version), 0) FROM holdfast.migration", &[]).await?;
        let found: i32 = row.try_get(0)?;
        if found > newest() {
            return Ok::<_, tokio_postgres::Error>(Err(Trouble::NewerSchema { found, known: newest() }));
        }
        for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
            transaction.batch_execute(sql).await?;
            transaction.execute("INSERT INTO holdfast.migration (version) VALUES ($1)", &[&version]).await?;
            tracing::info!(version, "the record's schema was brought up to date");
        }
        failpoint!("record::migrate_before_commit");
        transaction.commit().await?;
        failpoint!("record::migrate_after_commit");
        Ok(Ok(()))
    };
    match tokio::time::timeout(limit, migrating).await {
        Ok(Ok(result)) => result,
        Ok(Err(e)) => Err(Trouble::from(e)),
        Err(_) => Err(Trouble::Silent(limit)),
    }
}

/// Whether there is a record in this database.
pub(super) async fn is_there(session: &Session) -> Result<bool, Trouble> {
    Ok(version(session).await?.is_some())
}

async fn version(session: &Session) -> Result<Option<i32>, Trouble> {
    let exists = session.client.query_one("SELECT to_regclass('holdfast.migration') IS NOT NULL", &[]);
    if !session.within(exists).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let newest = session.client.query_one("SELECT max(version) FROM holdfast.migration", &[]);
    Ok(session.within(newest).await?.try_get(0)?)
}
