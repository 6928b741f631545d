//! What an engine depends on. Anything that is not in the key would give a wrong engine to somebody. Pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Named facts, and their hash as a name for files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    facts: BTreeMap<String, String>,
    digest: String,
}

/// The machine, as far as it decides about engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// The GPU's product, since the fastest kernels of two products with one capability can differ.
    pub product: String,
    /// The compute capability, such as `8.9`.
    pub compute_capability: String,
    /// The driver's major version.
    pub driver_major: String,
}

/// The software, as far as it decides about engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Software {
    /// ONNX Runtime's version.
    pub onnx_runtime: String,
    /// TensorRT's, empty where it is not there.
    pub tensor_rt: String,
}

impl Key {
    /// A key of these facts.
    pub fn new<'a>(facts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let facts: BTreeMap<String, String> =
            facts.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut hash = Sha256::new();
        for (name, value) in &facts {
            // Lengths keep two lists of facts apart that would be one text.
            hash.update(format!("{}:{name}={}:{value}\n", name.len(), value.len()));
        }
        let mut digest = hex(&hash.finalize());
        digest.truncate(32);
        Self { facts, digest }
    }

    /// The key of a model's engines: all options in the library's words hold the precision and the profiles.
    pub fn of_engine(
        model_sha256: &str,
        hardware: &Hardware,
        software: &Software,
        options: &BTreeMap<String, String>,
    ) -> Self {
        let options: Vec<(String, &str)> =
            options.iter().map(|(key, value)| (format!("option.{key}"), value.as_str())).collect();
        Self::new(
            machine(hardware, software)
                .into_iter()
                .chain([("model_sha256", model_sha256)])
                .chain(options.iter().map(|(key, value)| (key.as_str(), *value))),
        )
    }

    /// The key of a decision about a model at a size of a batch.
    pub fn of_choice(model_sha256: &str, hardware: &Hardware, software: &Software, rows: usize, options: &str) -> Self {
        let rows = rows.to_string();
        Self::new(machine(hardware, software).into_iter().chain([
            ("model_sha256", model_sha256),
            ("rows", &rows),
            ("options", options),
        ]))
    }

    /// The key of what TensorRT learnt about the speed of kernels, which holds for all models.
    pub fn of_timing(hardware: &Hardware, software: &Software) -> Self {
        Self::new(machine(hardware, software))
    }

    /// The name of its files: 32 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The facts.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }
}

fn machine<'a>(hardware: &'a Hardware, software: &'a Software) -> [(&'static str, &'a str); 5] {
    [
        ("compute_capability", &hardware.compute_capability),
        ("driver_major", &hardware.driver_major),
        ("product", &hardware.product),
        ("onnx_runtime", &software.onnx_runtime),
        ("tensor_rt", &software.tensor_rt),
    ]
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_in_the_key() {
        let hardware = Hardware {
            product: "NVIDIA L4".to_owned(),
            compute_capability: "8.9".to_owned(),
            driver_major: "580".to_owned(),
        };
        let software = Software { onnx_runtime: "1.31.1".to_owned(), tensor_rt: "10.9.0".to_owned() };
        let options = BTreeMap::from([("trt_fp16_enable".to_owned(), "1".to_owned())]);
        let key = Key::of_engine("abc", &hardware, &software, &options);
        assert_eq!(key.digest().len(), 32);
        assert_eq!(key, Key::of_engine("abc", &hardware, &software, &options));
        let with_hardware = |hardware: Hardware| Key::of_engine("abc", &hardware, &software, &options);
        let with_software = |software: Software| Key::of_engine("abc", &hardware, &software, &options);
        let with_option = |name: &str, value: &str| {
            let mut options = options.clone();
            options.insert(name.to_owned(), value.to_owned());
            Key::of_engine("abc", &hardware, &software, &options)
        };
        let others = [
            Key::of_engine("abd", &hardware, &software, &options),
            with_hardware(Hardware { product: "NVIDIA RTX 4080".to_owned(), ..hardware.clone() }),
            with_hardware(Hardware { compute_capability: "9.0".to_owned(), ..hardware.clone() }),
            with_hardware(Hardware { driver_major: "590".to_owned(), ..hardware.clone() }),
            with_software(Software { onnx_runtime: "1.31.2".to_owned(), ..software.clone() }),
            with_software(Software { tensor_rt: "10.10.0".to_owned(), ..software.clone() }),
            with_option("trt_fp16_enable", "0"),
            with_option("trt_profile_max_shapes", "x:8"),
        ];
        for (index, one) in others.iter().enumerate() {
            assert_ne!(one.digest(), key.digest(), "{index}");
            assert!(others[index + 1..].iter().all(|two| two.digest() != one.digest()), "{index}");
        }
    }

    #[test]
    fn facts_do_not_run_into_each_other() {
        assert_ne!(Key::new([("a", "1\nb=2")]).digest(), Key::new([("a", "1"), ("b", "2")]).digest());
    }
}
