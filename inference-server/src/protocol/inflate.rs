//! Compressed bodies and messages: read within bounds of size and ratio, written for clients that ask.
//!
//! A few kilobytes can become gigabytes. So the inflated bytes have the same bound as ones that came as they are, and beyond
//! [`FREE`] bytes they may be at most [`RATIO`] times what was sent: nothing that a model takes is as empty as a bomb.

use std::io::{self, Read, Write};

use flate2::{
    Compression,
    bufread::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};

/// So many bytes may come of any input; a tensor of zeros compresses a thousand times, and is a fair test of a client.
const FREE: usize = 4 << 20;
/// Beyond that, at most so many times what was sent.
const RATIO: usize = 100;
/// The bytes that are inflated at a time, between two looks at the bounds.
const STEP: u64 = 64 * 1024;

/// What is put behind compressed bytes to see where they end.
const BEHIND: &[u8] = &[0; 8];

/// The compressions that clients of both protocols know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// gzip.
    Gzip,
    /// deflate in zlib's frame, which is what HTTP and gRPC mean by it.
    Deflate,
}

/// Why compressed bytes can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// They become more than is allowed.
    #[error("the compressed data becomes larger than {0} bytes")]
    TooLarge(usize),
    /// They become many times what they are.
    #[error("the compressed data becomes more than {RATIO} times as large as it is")]
    Bomb,
    /// All requests together have their most bytes.
    #[error("the server holds its most bytes of requests")]
    Budget,
    /// They are not what they are said to be.
    #[error("the compressed data can't be read: {0}")]
    Corrupt(String),
}

impl Encoding {
    /// The encoding of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The first that a client accepts, by its `Accept-Encoding`.
    pub fn accepted(header: &str) -> Option<Self> {
        header.split(',').find_map(|item| {
            let (name, quality) = item.split_once(';').unwrap_or((item, ""));
            let is_refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0_f32));
            Self::from_name(name.trim()).filter(|_| !is_refused)
        })
    }

    /// Inflates within `limit` bytes. `grow` is asked before memory is taken for more.
    ///
    /// # Errors
    /// When a bound is met, or the bytes are not compressed so.
    pub fn inflate(
        self,
        compressed: &[u8],
        limit: usize,
        grow: impl FnMut(usize) -> bool,
    ) -> Result<Vec<u8>, InflateError> {
        let bounds = Bounds { limit, ratio: compressed.len().saturating_mul(RATIO).max(FREE) };
        // The library takes a stream that ends early for a short one. So it gets a few bytes more, which a whole one leaves alone.
        let input = compressed.chain(BEHIND);
        let (bytes, rest) = match self {
            Self::Gzip => {
                let mut decoder = GzDecoder::new(input);
                (read(&mut decoder, bounds, grow)?, rest(decoder.into_inner()))
            }
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(input);
                (read(&mut decoder, bounds, grow)?, rest(decoder.into_inner()))
            }
        };
        let Some(rest) = rest.checked_sub(BEHIND.len()) else {
            return Err(InflateError::Corrupt("it ends early".to_owned()));
        };
        if rest > 0 {
            return Err(InflateError::Corrupt(format!("{rest} bytes are left behind its end")));
        }
        Ok(bytes)
    }

    /// Compresses, quickly rather than well: the client waits.
    ///
    /// # Errors
    /// Never with a target in memory; the library says that it might.
    pub fn deflate(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let target = Vec::with_capacity(bytes.len() / 2);
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(target, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(target, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    limit: usize,
    ratio: usize,
}

fn read(decoder: &mut impl Read, bounds: Bounds, mut grow: impl FnMut(usize) -> bool) -> Result<Vec<u8>, InflateError> {
    let mut bytes = Vec::new();
    loop {
        let count =
            decoder.take(STEP).read_to_end(&mut bytes).map_err(|error| InflateError::Corrupt(error.to_string()))?;
        if count == 0 {
            return Ok(bytes);
        }
        if bytes.len() > bounds.limit {
            return Err(InflateError::TooLarge(bounds.limit));
        }
        if bytes.len() > bounds.ratio {
            return Err(InflateError::Bomb);
        }
        if !grow(count) {
            return Err(InflateError::Budget);
        }
    }
}

fn rest(mut left: impl Read) -> usize {
    io::copy(&mut left, &mut io::sink()).map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    #[test]
    fn a_bomb_costs_little() {
        for encoding in BOTH {
            let bomb = encoding.deflate(&vec![0; 64 << 20]).unwrap();
            let mut taken = 0;
            let result = encoding.inflate(&bomb, usize::MAX, |bytes| {
                taken += bytes;
                true
            });
            assert_eq!(result, Err(InflateError::Bomb));
            assert!(taken <= (RATIO * bomb.len()).max(FREE), "{taken} bytes of memory for {} sent", bomb.len());
        }
    }

    #[test]
    fn bounds_and_lies_are_errors() {
        for encoding in BOTH {
            let good = encoding.deflate(&[7; 1000]).unwrap();
            assert_eq!(encoding.inflate(&good, 1000, |_| true), Ok(vec![7; 1000]));
            assert_eq!(encoding.inflate(&good, 999, |_| true), Err(InflateError::TooLarge(999)));
            assert_eq!(encoding.inflate(&good, 1000, |_| false), Err(InflateError::Budget));
            for bad in [&b"plain"[..], &good[..good.len() - 1], &[&good[..], b"x"].concat()] {
                assert!(matches!(encoding.inflate(bad, 1000, |_| true), Err(InflateError::Corrupt(_))), "{bad:?}");
            }
        }
    }

    #[test]
    fn the_client_chooses() {
        for (header, expected) in [
            ("gzip, deflate, br", Some(Encoding::Gzip)),
            ("br, deflate;q=0.5", Some(Encoding::Deflate)),
            ("gzip;q=0, deflate", Some(Encoding::Deflate)),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(Encoding::accepted(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            for encoding in BOTH {
                prop_assert_eq!(encoding.inflate(&encoding.deflate(&bytes).unwrap(), 4000, |_| true), Ok(bytes.clone()));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for encoding in BOTH {
                drop(encoding.inflate(&bytes, 1000, |_| true));
            }
        }
    }
}
