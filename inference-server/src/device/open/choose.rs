//! From measurements to a choice, with the reason. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::{onnx::plan::Provider, probe::Agreement};

/// What a provider's answers must have in common with the processor's. Half precision is at 0.9999 and 0.01 on a transformer
/// that suits it, and at 0.99 on one whose norms overflow.
pub const LEAST_COSINE: f64 = 0.999;
/// The most that the length of the difference may be of the answer's length.
pub const MOST_ERROR: f64 = 0.05;
/// TensorRT must be so much faster than CUDA: its engines cost minutes for each new GPU, driver or model.
const WORTH_BUILDING: f64 = 1.05;

/// What became of one provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The provider.
    pub provider: Provider,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It ran.
    Ran {
        /// Images per second at the working batch.
        images_per_second: f64,
        /// How its answers compare with the processor's in single precision.
        agreement: Agreement,
    },
    /// It could not be opened or run.
    Failed(String),
    /// It was left out.
    LeftOut(String),
}

/// The provider to use, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The provider.
    pub provider: Provider,
    /// Why, in a sentence.
    pub reason: String,
    /// What it rests on.
    pub measurements: Vec<Measurement>,
}

/// Whether answers are near enough to the processor's.
pub fn is_right(agreement: Agreement) -> bool {
    agreement.cosine >= LEAST_COSINE && agreement.error <= MOST_ERROR
}

/// Takes the fastest provider with right answers; where none is left, the processor.
pub fn choose(measurements: Vec<Measurement>) -> Choice {
    let mut ranked: Vec<(Provider, f64)> = measurements
        .iter()
        .filter_map(|measurement| match measurement.outcome {
            Outcome::Ran { images_per_second, agreement } if is_right(agreement) && images_per_second > 0.0 => {
                Some((measurement.provider, images_per_second))
            }
            _ => None,
        })
        .collect();
    let worth = |(provider, rate): &(Provider, f64)| match provider {
        Provider::TensorRt => rate / WORTH_BUILDING,
        Provider::Cpu | Provider::Cuda => *rate,
    };
    ranked.sort_by(|a, b| worth(b).total_cmp(&worth(a)).then(a.0.cmp(&b.0)));
    let told = measurements.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let (provider, reason) = match ranked.as_slice() {
        [(provider, _)] => (*provider, format!("it is the only one that gives right answers here: {told}")),
        [(provider, _), ..] => (*provider, format!("it is the fastest that gives right answers here: {told}")),
        [] if measurements.is_empty() => (Provider::Cpu, "the library has nothing but the CPU".to_owned()),
        [] => (Provider::Cpu, format!("no other can be used here: {told}")),
    };
    Choice { provider, reason, measurements }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.provider.as_str();
        match &self.outcome {
            Outcome::Ran { images_per_second, agreement } => {
                write!(f, "{name} {images_per_second:.1} images/s")?;
                if is_right(*agreement) {
                    write!(f, " (cosine {:.5})", agreement.cosine)
                } else {
                    write!(f, ", but wrong (cosine {:.5}, error {:.3})", agreement.cosine, agreement.error)
                }
            }
            Outcome::Failed(why) => write!(f, "{name} failed ({why})"),
            Outcome::LeftOut(why) => write!(f, "{name} left out ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Agreement = Agreement { cosine: 0.9999, error: 0.01 };

    fn ran(provider: Provider, images_per_second: f64, agreement: Agreement) -> Measurement {
        Measurement { provider, outcome: Outcome::Ran { images_per_second, agreement } }
    }

    #[test]
    fn the_fastest_right_one() {
        use Provider::{Cpu, Cuda, TensorRt};
        let failed = |provider| Measurement { provider, outcome: Outcome::Failed("no libnvinfer.so.10".to_owned()) };
        let left_out = |provider| Measurement { provider, outcome: Outcome::LeftOut("no cache".to_owned()) };
        let off = Agreement { cosine: 0.98, error: 0.2 };
        let scaled = Agreement { cosine: 0.99999, error: 0.4 };
        for (name, measurements, expected, part) in [
            ("nothing to measure", vec![], Cpu, "nothing but the CPU"),
            ("CUDA alone", vec![ran(Cuda, 900.0, GOOD), left_out(TensorRt)], Cuda, "TensorRt left out (no cache)"),
            ("an RTX 4080", vec![ran(Cuda, 175.0, GOOD), ran(TensorRt, 500.0, GOOD)], TensorRt, "the fastest"),
            ("an A100", vec![ran(Cuda, 227.0, GOOD), ran(TensorRt, 34.0, GOOD)], Cuda, "TensorRt 34.0 images/s"),
            ("not worth a build", vec![ran(Cuda, 100.0, GOOD), ran(TensorRt, 104.0, GOOD)], Cuda, "Cuda 100.0"),
            ("worth a build", vec![ran(Cuda, 100.0, GOOD), ran(TensorRt, 106.0, GOOD)], TensorRt, "the fastest"),
            ("fast and wrong", vec![ran(Cuda, 100.0, GOOD), ran(TensorRt, 900.0, off)], Cuda, "but wrong (cosine 0.98"),
            (
                "right direction, wrong length",
                vec![ran(Cuda, 9.0, GOOD), ran(TensorRt, 90.0, scaled)],
                Cuda,
                "error 0.4",
            ),
            ("all fail", vec![failed(Cuda), failed(TensorRt)], Cpu, "Cuda failed (no libnvinfer.so.10)"),
            ("all wrong", vec![ran(Cuda, 100.0, off)], Cpu, "no other can be used"),
            ("no time passed", vec![ran(Cuda, f64::NAN, GOOD)], Cpu, "no other"),
        ] {
            let choice = choose(measurements);
            assert_eq!(choice.provider, expected, "{name}");
            assert!(choice.reason.contains(part), "{name}: {:?} should say {part:?}", choice.reason);
        }
    }

    #[test]
    fn a_choice_survives_its_file() {
        let choice = choose(vec![ran(Provider::Cuda, 1.0, GOOD), ran(Provider::TensorRt, 2.0, GOOD)]);
        let text = serde_json::to_string(&choice).unwrap();
        assert_eq!(serde_json::from_str::<Choice>(&text).unwrap(), choice);
    }
}
