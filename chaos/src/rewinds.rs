//! Sees whether the record's cursor is ever moved back: PostgreSQL itself notes it, in the transaction that does it.

use std::time::Duration;

use anyhow::Result;

use crate::check::Breach;
use crate::patience::until;
use crate::postgres::Postgres;

/// How long the first leader may take to make the record's tables.
const MADE_MAX: Duration = Duration::from_secs(20);

/// A restore begins another life at a lower revision; within one, the cursor only moves on.
const WATCH: &str = "
    CREATE TABLE public.rewinds (was bigint NOT NULL, became bigint NOT NULL, writer_term bigint NOT NULL);
    CREATE FUNCTION public.note_rewind() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO public.rewinds VALUES (OLD.revision, NEW.revision, NEW.writer_term);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_rewind AFTER UPDATE ON holdfast.cursor FOR EACH ROW
        WHEN (NEW.epoch = OLD.epoch AND NEW.revision < OLD.revision) EXECUTE FUNCTION public.note_rewind()";

/// From now on this record's server notes it.
///
/// # Errors
/// When no leader makes the record's tables.
pub async fn watch(postgres: &Postgres) -> Result<()> {
    until("the record has its tables", MADE_MAX, async || postgres.sql("SELECT revision FROM holdfast.cursor").await)
        .await?;
    postgres.sql(WATCH).await.map(drop)
}

/// What was noted.
///
/// # Errors
/// When the server does not answer.
pub async fn breaches(postgres: &Postgres) -> Result<Vec<Breach>> {
    let found = postgres.sql("SELECT was, became, writer_term FROM public.rewinds").await?;
    let breach = |row: &str| Breach {
        law: "record-never-goes-back",
        what: format!("the record's cursor was moved back (from|to|by the leader of term): {row}"),
    };
    Ok(found.lines().filter(|row| !row.is_empty()).map(breach).collect())
}
