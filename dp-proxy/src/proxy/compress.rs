//! Compresses a body as it goes: what came is passed on compressed, and never kept.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// What is gathered before it is passed on, in bytes, unless a client waits for it: less makes many small writes.
const GATHERED: usize = 8 << 10;

/// A body on its way through gzip. What it keeps (some 300 KiB) does not depend on how long the body is.
#[derive(Debug)]
pub(crate) struct Compressor {
    encoder: GzEncoder<Vec<u8>>,
    /// Whether something went in that has not come out whole.
    holds_back: bool,
}

impl Compressor {
    /// `level` is 1 (fast) to 9 (small).
    pub(crate) fn new(level: u32) -> Self {
        Self { encoder: GzEncoder::new(Vec::new(), Compression::new(level)), holds_back: false }
    }

    /// Takes a piece of the body. What has become of it and of what came before, if there is enough.
    pub(crate) fn write(&mut self, data: &[u8]) -> Option<Bytes> {
        infallible(self.encoder.write_all(data));
        self.holds_back = true;
        if self.encoder.get_ref().len() < GATHERED { None } else { self.take() }
    }

    /// All that is held back, as far as there is anything: for a client that waits while nothing more comes.
    pub(crate) fn flush(&mut self) -> Option<Bytes> {
        if !std::mem::take(&mut self.holds_back) {
            return None;
        }
        infallible(self.encoder.flush());
        self.take()
    }

    /// The end.
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        infallible(self.encoder.try_finish());
        self.take()
    }

    fn take(&mut self) -> Option<Bytes> {
        let out = std::mem::take(self.encoder.get_mut());
        (!out.is_empty()).then(|| out.into())
    }
}

fn infallible(written: io::Result<()>) {
    written.expect("a vector takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn opened(compressed: &[u8]) -> Vec<u8> {
        let mut open = Vec::new();
        MultiGzDecoder::new(compressed).read_to_end(&mut open).unwrap();
        open
    }

    #[test]
    fn what_goes_in_comes_out_and_little_is_kept() {
        let mut it = Compressor::new(1);
        let piece = b"holdfast ".repeat(1000);
        let mut out = Vec::new();
        for _ in 0..1000 {
            let came = it.write(&piece).unwrap_or_default();
            assert!(came.len() < 64 << 10);
            out.extend_from_slice(&came);
        }
        out.extend_from_slice(&it.finish().unwrap());
        assert!(it.finish().is_none() && out.len() < 200_000, "{}", out.len());
        assert_eq!(opened(&out), piece.repeat(1000));
    }

    #[test]
    fn a_flush_gives_all_that_came() {
        let mut it = Compressor::new(9);
        let mut out = it.write(b"event: 1").unwrap_or_default().to_vec();
        out.extend_from_slice(&it.flush().unwrap());
        assert!(it.flush().is_none());
        let mut open = [0; 8];
        MultiGzDecoder::new(&out[..]).read_exact(&mut open).unwrap();
        assert_eq!(&open, b"event: 1");
        assert_eq!(opened(&Compressor::new(1).finish().unwrap()), b"");
    }
}
