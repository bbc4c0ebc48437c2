//! Puts the parts of a payload together, in bounded memory.

use bytes::Bytes;
use protocol::codec;
use protocol::grpc::Payload;
use protocol::grpc::payload::Kind;

/// A payload that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    pub(super) kind: Kind,
    pub(super) bytes: Bytes,
}

/// Parts of a payload that is not whole yet.
#[derive(Debug)]
pub(super) struct Assembly {
    first: Payload,
    bytes: Vec<u8>,
}

/// Parts that do not make a payload.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPayload {
    /// Of a kind that this version does not know.
    #[error("a payload of an unknown kind ({0})")]
    Kind(i32),
    /// Larger than is taken.
    #[error("a payload of {bytes} bytes is over the bound of {max}")]
    TooLarge {
        /// Its announced size.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The parts do not fit each other.
    #[error("the parts of a payload do not fit each other")]
    Parts,
    /// It does not decompress to what it announces.
    #[error("a payload cannot be decompressed: {0}")]
    Compression(String),
}

impl Assembly {
    /// Takes a part. Gives the payload with its last part; what was begun stays in `begun`.
    ///
    /// # Errors
    /// [`BadPayload`]: the stream is of no use any more.
    pub(super) fn take(begun: &mut Option<Self>, part: Payload, bytes_max: u64) -> Result<Option<Whole>, BadPayload> {
        let Some(assembly) = begun else {
            let bytes = part.total_bytes.max(part.raw_bytes);
            if bytes > bytes_max {
                return Err(BadPayload::TooLarge { bytes, max: bytes_max });
            }
            if part.last {
                // The whole in one part, as every edit is: nothing is copied.
                let bytes = part.part.clone();
                return finish(&part, bytes, bytes_max).map(Some);
            }
            // What is announced is not set aside before it comes.
            let bytes = part.part.to_vec();
            check_size(&part, bytes.len())?;
            *begun = Some(Self { first: Payload { part: Bytes::new(), ..part }, bytes });
            return Ok(None);
        };
        let same = (part.kind, part.total_bytes, part.zstd, part.raw_bytes)
            == (assembly.first.kind, assembly.first.total_bytes, assembly.first.zstd, assembly.first.raw_bytes);
        if !same {
            return Err(BadPayload::Parts);
        }
        assembly.bytes.extend_from_slice(&part.part);
        check_size(&assembly.first, assembly.bytes.len())?;
        if !part.last {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut assembly.bytes);
        *begun = None;
        finish(&part, bytes.into(), bytes_max).map(Some)
    }
}

fn check_size(announced: &Payload, bytes: usize) -> Result<(), BadPayload> {
    if bytes as u64 > announced.total_bytes { Err(BadPayload::Parts) } else { Ok(()) }
}

fn finish(last: &Payload, bytes: Bytes, bytes_max: u64) -> Result<Whole, BadPayload> {
    if bytes.len() as u64 != last.total_bytes {
        return Err(BadPayload::Parts);
    }
    let kind = match Kind::try_from(last.kind) {
        Ok(Kind::Unspecified) | Err(_) => return Err(BadPayload::Kind(last.kind)),
        Ok(kind) => kind,
    };
    if !last.zstd {
        return Ok(Whole { kind, bytes });
    }
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let raw = codec::decompress(&bytes, size(last.raw_bytes), size(bytes_max));
    let raw = raw.map_err(|e| BadPayload::Compression(e.to_string()))?;
    Ok(Whole { kind, bytes: raw.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: &[u8], total: u64, last: bool) -> Payload {
        Payload {
            kind: Kind::Delta.into(),
            total_bytes: total,
            zstd: false,
            raw_bytes: 0,
            part: Bytes::copy_from_slice(bytes),
            last,
        }
    }

    fn all(parts: Vec<Payload>) -> Result<Option<Whole>, BadPayload> {
        let mut begun = None;
        let mut result = Ok(None);
        for part in parts {
            result = Assembly::take(&mut begun, part, 1000);
            if result.is_err() {
                break;
            }
        }
        result
    }

    #[test]
    fn parts_become_a_whole() {
        let raw = vec![7u8; 900];
        let packed = codec::compress(&raw);
        let zstd =
            |bytes: &[u8], last| Payload { zstd: true, raw_bytes: 900, ..part(bytes, packed.len() as u64, last) };
        for (parts, expected) in [
            (vec![part(b"abc", 3, true)], Ok(Some(&b"abc"[..]))),
            (vec![part(b"ab", 3, false), part(b"c", 3, true)], Ok(Some(&b"abc"[..]))),
            (vec![part(b"ab", 3, false), part(b"c", 3, false), part(b"", 3, true)], Ok(Some(&b"abc"[..]))),
            (vec![zstd(&packed, true)], Ok(Some(&raw[..]))),
            (vec![zstd(&packed[..5], false), zstd(&packed[5..], true)], Ok(Some(&raw[..]))),
            (vec![part(b"ab", 3, false)], Ok(None)),
            (vec![part(b"ab", 3, true)], Err(BadPayload::Parts)),
            (vec![part(b"abcd", 3, false)], Err(BadPayload::Parts)),
            (vec![part(b"ab", 3, false), part(b"cd", 3, true)], Err(BadPayload::Parts)),
            (vec![part(b"ab", 3, false), part(b"c", 4, true)], Err(BadPayload::Parts)),
            (vec![part(b"", 1001, false)], Err(BadPayload::TooLarge { bytes: 1001, max: 1000 })),
            (
                vec![Payload { raw_bytes: 1 << 40, zstd: true, ..part(b"a", 1, true) }],
                Err(BadPayload::TooLarge { bytes: 1 << 40, max: 1000 }),
            ),
            (vec![Payload { kind: 9, ..part(b"a", 1, true) }], Err(BadPayload::Kind(9))),
            (vec![Payload { kind: 0, ..part(b"a", 1, true) }], Err(BadPayload::Kind(0))),
        ] {
            let names = format!("{parts:?}");
            let result = all(parts);
            let bytes = result.as_ref().map(|whole| whole.as_ref().map(|whole| &whole.bytes[..]));
            assert_eq!(bytes, expected.as_ref().map(|e| *e), "{names}");
        }
        let error = all(vec![Payload { raw_bytes: 900, zstd: true, ..part(b"abc", 3, true) }]).unwrap_err();
        assert!(matches!(error, BadPayload::Compression(_)), "{error}");
    }
}
