//! Any text as a model's config.pbtxt; what is read must come back from its JSON.
#![no_main]

use flotilla_server::config::text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = text::parse(text) {
        let json = text::to_json(&config).expect("what was read can be written").to_string();
        let again = text::parse_json(&json).expect("what was written can be read");
        // By their bytes: a number that is none is not equal to itself.
        assert_eq!(text::to_json(&again).expect("and written again").to_string(), json);
    }
});
