//! Any bytes as a compressed body: within the bounds, and the same again after compressing.
#![no_main]

use flotilla_server::protocol::inflate::Encoding;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 8 << 20;

fuzz_target!(|bytes: &[u8]| {
    for coding in [Encoding::Gzip, Encoding::Deflate] {
        let mut grown = 0;
        let inflated = coding.inflate(bytes, LIMIT, |more| {
            grown += more;
            grown <= LIMIT
        });
        assert!(grown <= 2 * LIMIT, "it asked for {grown} bytes");
        if let Ok(inflated) = inflated {
            assert!(inflated.len() <= LIMIT);
        }
        let compressed = coding.deflate(bytes).expect("memory takes everything");
        assert_eq!(coding.inflate(&compressed, LIMIT, |_| true).expect("its own"), bytes);
    }
});
