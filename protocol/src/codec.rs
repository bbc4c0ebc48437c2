//! The one frame that every stored or sent record of ours stands in.
//!
//! ```text
//!   magic "HF" | tag (4 bytes) | version u16 | length u32 | CRC-32C u32 | payload        all integers little endian
//! ```
//!
//! The payload is bincode's standard layout: positional, no field names, no self-description. So the layout of a record
//! is frozen with its version; a golden file holds it (`tests/golden/`). The checksum covers everything but itself.
//! bincode is wrapped here and nowhere else.

use bincode::{Decode, Encode};

/// bincode's standard layout (little endian, variable-length integers), without a limit: for encoding and hashing.
pub(crate) const LAYOUT: bincode::config::Configuration = bincode::config::standard();

const MAGIC: [u8; 2] = *b"HF";

/// Bytes in front of every payload.
pub const HEADER_BYTES: usize = 2 + 4 + 2 + 4 + 4;

/// Something that is stored or sent in a frame of its own.
pub trait Record: Encode + Decode<()> {
    /// Four letters that name the kind of record.
    const TAG: [u8; 4];
    /// The version of the layout, counted from 1. A change of the layout needs a new version, a golden file for it, a
    /// line in the changelog, and a way to read the old one.
    const VERSION: u16;
    /// The largest payload that is written or believed.
    const PAYLOAD_BYTES_MAX: usize;
}

/// What can be wrong with a frame. Every reader puts the place (file and offset, or peer) in front.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the header or the announced payload needs.
    #[error("record cut short: {have} bytes of {need}")]
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that should be there.
        need: usize,
    },
    /// The first bytes are not ours.
    #[error("not a record of ours (it starts with {0:02x?})")]
    Magic([u8; 2]),
    /// A record of ours, but another one.
    #[error("expected a record {want:?}, found {found:?}")]
    Tag {
        /// The tag asked for.
        want: String,
        /// The tag that stands there.
        found: String,
    },
    /// Written by a newer version of Holdfast.
    #[error("record {tag:?} has layout version {found}, this version of holdfast knows up to {known}")]
    Newer {
        /// The record's tag.
        tag: String,
        /// Its version.
        found: u16,
        /// The highest known here.
        known: u16,
    },
    /// The announced or actual payload is over the record's bound.
    #[error("record of {bytes} bytes is over the bound of {max}")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The checksum does not match the bytes.
    #[error("checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored.
        stored: u32,
        /// Over the bytes found.
        computed: u32,
    },
    /// The checksum holds, but the payload does not decode: a bug, or a newer writer that kept the version.
    #[error("record does not decode: {0}")]
    Payload(String),
}

/// Encodes a record into a new frame.
///
/// # Errors
/// [`CodecError::TooLarge`] when the payload is over the record's bound.
pub fn seal<T: Record>(record: &T) -> Result<Vec<u8>, CodecError> {
    let mut frame = Vec::with_capacity(256);
    seal_into(record, &mut frame)?;
    Ok(frame)
}

/// Appends a record's frame to `out`; on an error `out` is as before.
///
/// # Errors
/// [`CodecError::TooLarge`] when the payload is over the record's bound.
pub fn seal_into<T: Record>(record: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&T::TAG);
    out.extend_from_slice(&T::VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    bincode::encode_into_writer(record, Sink(out), LAYOUT).expect("memory takes every byte, and every record encodes");
    let payload_bytes = out.len() - start - HEADER_BYTES;
    let Some(length) = u32::try_from(payload_bytes).ok().filter(|_| payload_bytes <= T::PAYLOAD_BYTES_MAX) else {
        out.truncate(start);
        return Err(CodecError::TooLarge { bytes: payload_bytes, max: T::PAYLOAD_BYTES_MAX });
    };
    out[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&out[start..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// How many bytes a value takes inside a record.
#[must_use]
pub fn encoded_bytes<T: Encode>(value: &T) -> usize {
    let mut counter = bincode::enc::write::SizeWriter::default();
    bincode::encode_into_writer(value, &mut counter, LAYOUT).expect("counting has no end, and every type here encodes");
    counter.bytes_written
}

/// Decodes a frame that fills `bytes` exactly.
///
/// # Errors
/// Any [`CodecError`]; bytes behind the frame are a [`CodecError::Payload`].
pub fn open<T: Record>(bytes: &[u8]) -> Result<T, CodecError> {
    let (record, used) = open_prefix(bytes)?;
    if used != bytes.len() {
        return Err(CodecError::Payload(format!("{} bytes behind the record", bytes.len() - used)));
    }
    Ok(record)
}

/// Decodes the frame at the start of `bytes`, and says how long it is.
///
/// # Errors
/// Any [`CodecError`]; [`CodecError::Short`] when more bytes could make it whole.
pub fn open_prefix<T: Record>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    let (version, payload) = open_raw::<T>(bytes)?;
    if version != T::VERSION {
        // There is one version of each record so far; an older one will be decoded here by its own layout.
        return Err(CodecError::Payload(format!("layout version {version} was never written")));
    }
    Ok((decode_payload(payload)?, HEADER_BYTES + payload.len()))
}

/// Checks magic, tag, version, length and checksum; returns the version and the payload.
fn open_raw<T: Record>(bytes: &[u8]) -> Result<(u16, &[u8]), CodecError> {
    let short = |need| CodecError::Short { have: bytes.len(), need };
    let header = bytes.get(..HEADER_BYTES).ok_or_else(|| short(HEADER_BYTES))?;
    let magic = [header[0], header[1]];
    if magic != MAGIC {
        return Err(CodecError::Magic(magic));
    }
    if header[2..6] != T::TAG {
        return Err(CodecError::Tag { want: tag_text(&T::TAG), found: tag_text(&header[2..6]) });
    }
    let version = u16::from_le_bytes([header[6], header[7]]);
    if version > T::VERSION {
        return Err(CodecError::Newer { tag: tag_text(&T::TAG), found: version, known: T::VERSION });
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let payload_bytes = word(8) as usize;
    if payload_bytes > T::PAYLOAD_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: payload_bytes, max: T::PAYLOAD_BYTES_MAX });
    }
    let need = HEADER_BYTES + payload_bytes;
    let frame = bytes.get(..need).ok_or_else(|| short(need))?;
    let (stored, computed) = (word(12), checksum(frame));
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    Ok((version, &frame[HEADER_BYTES..]))
}

/// Compresses bytes for a link or a log: about tenfold for JSON, at some hundred MiB/s.
#[must_use]
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).expect("compressing memory into memory cannot fail")
}

/// Undoes [`compress`], of which the result is announced to have `raw_bytes`.
///
/// # Errors
/// [`CodecError::TooLarge`] when that is over `max`, [`CodecError::Payload`] when it is something else.
pub fn decompress(bytes: &[u8], raw_bytes: usize, max: usize) -> Result<Vec<u8>, CodecError> {
    if raw_bytes > max {
        return Err(CodecError::TooLarge { bytes: raw_bytes, max });
    }
    let raw = zstd::bulk::decompress(bytes, raw_bytes)
        .map_err(|_| CodecError::Payload("it does not decompress to its announced size".into()))?;
    if raw.len() != raw_bytes {
        return Err(CodecError::Payload("it does not decompress to its announced size".into()));
    }
    Ok(raw)
}

/// CRC-32C over a frame, its own four bytes left out.
fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[HEADER_BYTES..])
}

/// Decodes a payload. What a hostile length inside it can make us allocate is bounded by a multiple of its size.
fn decode_payload<T: Record>(payload: &[u8]) -> Result<T, CodecError> {
    const STEP: usize = 64; // bytes in memory that one encoded byte may claim
    fn decode<T: Record, const LIMIT: usize>(payload: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
        bincode::decode_from_slice(payload, LAYOUT.with_limit::<LIMIT>())
    }
    let decoded = match payload.len() {
        0..=0x1_0000 => decode::<T, { STEP * 0x1_0000 }>(payload),
        0x1_0001..=0x10_0000 => decode::<T, { STEP * 0x10_0000 }>(payload),
        0x10_0001..=0x100_0000 => decode::<T, { STEP * 0x100_0000 }>(payload),
        _ => decode::<T, { STEP * 0x1000_0000 }>(payload),
    };
    let (record, used) = decoded.map_err(|e| CodecError::Payload(e.to_string()))?;
    if used != payload.len() {
        return Err(CodecError::Payload(format!("{} unread bytes in the payload", payload.len() - used)));
    }
    Ok(record)
}

fn tag_text(tag: &[u8]) -> String {
    String::from_utf8_lossy(tag).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Note {
        n: u64,
        lines: Vec<String>,
    }

    impl Record for Note {
        const TAG: [u8; 4] = *b"note";
        const VERSION: u16 = 3;
        const PAYLOAD_BYTES_MAX: usize = 1000;
    }

    fn note() -> Note {
        Note { n: 7, lines: vec!["a".into(), "bc".into()] }
    }

    #[test]
    fn a_frame_comes_back() {
        let frame = seal(&note()).unwrap();
        assert_eq!(open::<Note>(&frame), Ok(note()));
        let mut two = frame.clone();
        two.extend_from_slice(&frame);
        assert_eq!(open_prefix::<Note>(&two), Ok((note(), frame.len())));
        assert!(matches!(open::<Note>(&two), Err(CodecError::Payload(_))));
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let frame = seal(&note()).unwrap();
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open::<Note>(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let frame = seal(&note()).unwrap();
        for have in 0..frame.len() {
            assert!(matches!(open::<Note>(&frame[..have]), Err(CodecError::Short { .. })), "{have} bytes");
        }
    }

    #[test]
    fn a_newer_layout_is_told_apart_from_damage() {
        let mut frame = seal(&note()).unwrap();
        frame[6] = 4;
        let err = open::<Note>(&frame).unwrap_err();
        assert_eq!(err, CodecError::Newer { tag: "note".into(), found: 4, known: 3 });
    }

    #[test]
    fn the_bound_holds_on_both_sides() {
        let big = Note { n: 0, lines: vec!["x".repeat(1001)] };
        let mut out = vec![1, 2, 3];
        assert!(matches!(seal_into(&big, &mut out), Err(CodecError::TooLarge { .. })));
        assert_eq!(out, [1, 2, 3], "a refused record leaves nothing behind");
        let mut frame = seal(&note()).unwrap();
        frame[8..12].copy_from_slice(&1001u32.to_le_bytes());
        assert!(matches!(open::<Note>(&frame), Err(CodecError::TooLarge { bytes: 1001, max: 1000 })));
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        // A list that announces 2^60 items in a frame whose checksum is right.
        let mut payload = vec![7u8, 253];
        payload.extend_from_slice(&(1u64 << 60).to_le_bytes());
        let mut frame = Vec::new();
        frame.extend_from_slice(b"HFnote");
        frame.extend_from_slice(&3u16.to_le_bytes());
        frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&payload);
        let crc = checksum(&frame);
        frame[12..16].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(open::<Note>(&frame), Err(CodecError::Payload(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = open::<Note>(&bytes);
        }
    }
}
