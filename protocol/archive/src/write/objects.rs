//! Puts bases and segments into an archive, each once under its name, and reads each back.

use bytes::Bytes;
use daemon::{blocking, failpoint};
use protocol::entry::UnixMillis;
use protocol::{ConfigState, Delta, Position};

use super::{Done, WriteError, Writer, encode_base};
use crate::layout::{Part, View};
use crate::pointer::{Pointer, SegmentRef};
use crate::read::{Reason, Refused};
use crate::segment;
use crate::store::{Object, StoreError, Version, When};

impl Writer {
    /// Puts a segment; `None` when there is another one with its name, or it would be too large: then a base is called
    /// for.
    pub(super) async fn put_segment(
        &self,
        delta: &Delta,
        config: &ConfigState,
        level: u32,
        done: &mut Done,
    ) -> Result<Option<SegmentRef>, WriteError> {
        let (chain, level) = match self.view {
            View::Whole => (Some(config.chain()), level),
            View::Group(_) => (None, 0),
        };
        let Ok(bytes) = segment::write(self.cluster, self.view.text(), delta, chain, level, &self.key) else {
            return Ok(None);
        };
        let key = self.key_of(Part::Segment, delta.position);
        let (size, bytes) = (bytes.len() as u64, Bytes::from(bytes));
        failpoint!("archive::before_segment");
        match self.put_new(&key, bytes.clone()).await? {
            Put::New => {
                done.segments += 1;
                done.bytes += size;
            }
            // An attempt whose answer was lost, or another leader.
            Put::There => {}
        }
        failpoint!("archive::after_segment");
        let mut back = self.reader.segment(self.cluster, &self.view, &key).await;
        if back.as_ref().is_err_and(Reason::is_damage) {
            let lies = self.lying(&key).await?;
            let seen = self.reader.check_segment(self.cluster, &self.view, &lies.body);
            self.put_again(&key, bytes, lies.version, seen.err()).await?;
            back = self.reader.segment(self.cluster, &self.view, &key).await;
        }
        let back = back.map_err(|reason| WriteError::ReadBack(Refused { object: key, reason }))?;
        let fits =
            (back.header.prev, back.header.position, back.header.digest) == (delta.prev, delta.position, delta.digest);
        Ok(fits.then_some(SegmentRef { prev: delta.prev, position: delta.position, bytes: size }))
    }

    /// Puts a base, and gives the pointer that names it alone.
    pub(super) async fn put_base(
        &self,
        config: &ConfigState,
        level: u32,
        now: UnixMillis,
        done: &mut Done,
    ) -> Result<Pointer, WriteError> {
        let (cluster, view, key, whole) = (self.cluster, self.view.clone(), self.key.clone(), config.clone());
        let encode = blocking::spawn(move || encode_base(cluster, &view, &whole, level, now, &key));
        let encoded = encode.await.map_err(|e| WriteError::Encode(std::io::Error::other(e)))?;
        let (header, bytes) = encoded.map_err(WriteError::Encode)?;
        let (base_bytes, bytes) = (bytes.len() as u64, Bytes::from(bytes));
        let key = self.key_of(Part::Base, header.position);
        failpoint!("archive::before_base");
        match self.put_new(&key, bytes.clone()).await? {
            Put::New => {
                done.bases += 1;
                done.bytes += base_bytes;
            }
            Put::There => {}
        }
        failpoint!("archive::after_base");
        let mut back = self.reader.base(self.cluster, &self.view, &key).await;
        if back.as_ref().is_err_and(Reason::is_damage) {
            let lies = self.lying(&key).await?;
            let seen = self.reader.check_base(self.cluster, &self.view, lies.body).await;
            self.put_again(&key, bytes, lies.version, seen.err()).await?;
            back = self.reader.base(self.cluster, &self.view, &key).await;
        }
        let back = back.map_err(|reason| WriteError::ReadBack(Refused { object: key.clone(), reason }))?;
        if back.state.position() != header.position || back.state.digest() != header.digest {
            let reason = Reason::Elsewhere { found: back.state.position(), wanted: header.position };
            return Err(WriteError::ReadBack(Refused { object: key, reason }));
        }
        Ok(Pointer {
            cluster,
            view: self.view.text(),
            position: header.changed_at,
            digest: header.digest,
            base: header.position,
            base_changed_at: header.changed_at,
            base_bytes,
            segments: Vec::new(),
            written: now,
        })
    }

    pub(super) fn key_of(&self, part: Part, position: Position) -> String {
        self.layout.object(self.cluster, &self.view, position.epoch, part, position.revision)
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<Put, WriteError> {
        let failed = |error| WriteError::Store { key: key.to_owned(), error };
        let result = self.store.put(key, body.clone(), When::Absent).await;
        match result {
            Ok(_) => Ok(Put::New),
            Err(StoreError::Lost) => Ok(Put::There),
            Err(StoreError::Unconditional) => {
                self.store.put(key, body, When::Always).await.map(|_| Put::New).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// What lies under a name now, good or not.
    pub(super) async fn lying(&self, key: &str) -> Result<Object, WriteError> {
        self.reader.fetch(key).await.map_err(|error| WriteError::Store { key: key.to_owned(), error })
    }

    /// Puts an object in place of the damaged one of which this version was `seen`. Where that one is good (then its
    /// reading was spoilt) or somebody else was first, what lies there stays, and is read again.
    pub(super) async fn put_again(
        &self,
        key: &str,
        body: Bytes,
        version: Version,
        seen: Option<Reason>,
    ) -> Result<(), WriteError> {
        let Some(reason) = seen.filter(Reason::is_damage) else { return Ok(()) };
        tracing::warn!(object = key, %reason, "damaged on its way into the archive: it is put again");
        match self.store.put(key, body.clone(), When::Is(version)).await {
            Ok(_) | Err(StoreError::Lost) => return Ok(()),
            Err(StoreError::Unconditional) => self.store.put(key, body, When::Always).await.map(|_| ()),
            Err(error) => Err(error),
        }
        .map_err(|error| WriteError::Store { key: key.to_owned(), error })
    }
}

enum Put {
    New,
    There,
}
