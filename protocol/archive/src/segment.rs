//! Segments: what changed between two positions, signed.
//!
//! ```text
//!   record "aseg"   whose, from which change to which, sizes
//!   zstd of records "delt", as on the feed and in a proxy's journal
//!   record "asig"   SHA-256 of everything before it, and the seal over that hash
//! ```

use bincode::{Decode, Encode};
use bytes::Bytes;
use daemon::planted;
use protocol::codec::{self, CodecError, Record};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::snapshot::{ClusterId, Seal, SealError, Sealer, Verifier};
use protocol::{Chain, Delta, Digest, Position, Text};
use sha2::{Digest as _, Sha256};

/// What a segment is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SegmentHeader {
    /// Whose configuration.
    pub cluster: ClusterId,
    /// Which view; `None`: everything.
    pub view: Option<Text>,
    /// The change that it starts from.
    pub prev: Position,
    /// The change that it ends with.
    pub position: Position,
    /// The digest there.
    pub digest: Digest,
    /// The chain there; only where everything is held.
    pub chain: Option<Chain>,
    /// The level of the cluster there; 0 in a group's view.
    pub level: u32,
    /// What the records take, unpacked.
    pub raw_bytes: u64,
    /// What they take here.
    pub stored_bytes: u64,
}

/// Who vouches for a segment or a pointer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Signature {
    sha256: [u8; 32],
    seal: Seal,
}

/// A segment that was read and found good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// What it is.
    pub header: SegmentHeader,
    /// Its steps, each with its frame.
    pub steps: Vec<(Delta, Bytes)>,
}

/// Why a segment or a pointer is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignedError {
    /// A record does not decode.
    #[error("its {0}: {1}")]
    Record(&'static str, #[source] CodecError),
    /// It is cut short, or something is behind it.
    #[error("it has {found} bytes, its header says {wanted}")]
    Size {
        /// Its size.
        found: u64,
        /// As its header says.
        wanted: u64,
    },
    /// Its content is not what was signed.
    #[error("it is damaged: its hash is not the one in its signature")]
    Damaged,
    /// Nobody that counts vouches for it.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It would unpack to more than is taken.
    #[error("it unpacks to {bytes} bytes, over the bound of {max}")]
    TooLarge {
        /// What it unpacks to.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// It is of another cluster.
    #[error("it is of cluster {found}, this is {wanted}")]
    Cluster {
        /// Its cluster.
        found: ClusterId,
        /// The cluster asked for.
        wanted: ClusterId,
    },
    /// It is of another view.
    #[error("it holds the view {found:?}, {wanted:?} is needed")]
    View {
        /// Its view.
        found: Option<Text>,
        /// The view asked for.
        wanted: Option<Text>,
    },
}

impl Record for SegmentHeader {
    const TAG: [u8; 4] = *b"aseg";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

impl Record for Signature {
    const TAG: [u8; 4] = *b"asig";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

/// Appends the signature over everything in `bytes`.
pub(crate) fn sign(bytes: &mut Vec<u8>, key: &SigningKey) {
    let sha256: [u8; 32] = Sha256::digest(&*bytes).into();
    let signature = Signature { sha256, seal: key.seal(&sha256) };
    codec::seal_into(&signature, bytes).expect("a signature is small");
}

/// Checks the signature that stands behind the first `signed` bytes, and that nothing is behind it.
pub(crate) fn check_signature(bytes: &[u8], signed: usize, trusted: &TrustedKeys) -> Result<(), SignedError> {
    let Some((content, signature)) = bytes.split_at_checked(signed) else {
        return Err(SignedError::Size { found: bytes.len() as u64, wanted: signed as u64 });
    };
    let signature: Signature = codec::open(signature).map_err(|e| SignedError::Record("signature", e))?;
    if Sha256::digest(content)[..] != signature.sha256[..] {
        return Err(SignedError::Damaged);
    }
    Ok(Signatures(trusted).verify(&signature.sha256, &signature.seal)?)
}

/// Whose signatures count in an archive.
pub(crate) struct Signatures<'t>(pub(crate) &'t TrustedKeys);

impl Verifier for Signatures<'_> {
    fn verify(&self, sha256: &[u8; 32], seal: &Seal) -> Result<(), SealError> {
        if planted!("any-signature-counts") {
            return Ok(());
        }
        self.0.verify(sha256, seal)
    }
}

pub(crate) fn check_owner(
    found: (ClusterId, &Option<Text>),
    cluster: ClusterId,
    view: &Option<Text>,
) -> Result<(), SignedError> {
    if found.0 != cluster {
        return Err(SignedError::Cluster { found: found.0, wanted: cluster });
    }
    if found.1 != view {
        return Err(SignedError::View { found: found.1.clone(), wanted: view.clone() });
    }
    Ok(())
}

/// Writes the segment that holds this step.
///
/// # Errors
/// [`CodecError`] when the step is larger than any record: then a base is called for.
pub fn write(
    cluster: ClusterId,
    view: Option<Text>,
    delta: &Delta,
    chain: Option<Chain>,
    level: u32,
    key: &SigningKey,
) -> Result<Vec<u8>, CodecError> {
    let raw = codec::seal(delta)?;
    let stored = codec::compress(&raw);
    let header = SegmentHeader {
        cluster,
        view,
        prev: delta.prev,
        position: delta.position,
        digest: delta.digest,
        chain,
        level,
        raw_bytes: raw.len() as u64,
        stored_bytes: stored.len() as u64,
    };
    let mut bytes = codec::seal(&header)?;
    bytes.extend_from_slice(&stored);
    sign(&mut bytes, key);
    Ok(bytes)
}

/// Reads a segment of this cluster and view: first who made it, then its size, and only then its content.
///
/// # Errors
/// [`SignedError`].
pub fn read(
    bytes: &[u8],
    cluster: ClusterId,
    view: &Option<Text>,
    trusted: &TrustedKeys,
    raw_bytes_max: u64,
) -> Result<Segment, SignedError> {
    let (header, used) = codec::open_prefix::<SegmentHeader>(bytes).map_err(|e| SignedError::Record("header", e))?;
    let stored_bytes = usize::try_from(header.stored_bytes).unwrap_or(usize::MAX);
    check_signature(bytes, used.saturating_add(stored_bytes), trusted)?;
    check_owner((header.cluster, &header.view), cluster, view)?;
    if header.raw_bytes > raw_bytes_max {
        return Err(SignedError::TooLarge { bytes: header.raw_bytes, max: raw_bytes_max });
    }
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let content = |e| SignedError::Record("content", e);
    let raw = codec::decompress(&bytes[used..used + stored_bytes], size(header.raw_bytes), size(raw_bytes_max));
    let raw = Bytes::from(raw.map_err(content)?);
    let (mut steps, mut at) = (Vec::new(), 0);
    while at < raw.len() {
        let (delta, used) = codec::open_prefix::<Delta>(&raw[at..]).map_err(content)?;
        steps.push((delta, raw.slice(at..at + used)));
        at += used;
    }
    Ok(Segment { header, steps })
}
