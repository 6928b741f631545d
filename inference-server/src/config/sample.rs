//! `model_warmup`: requests that run before the model is ready, besides our own of every batch size. They tell the sizes of open
//! dimensions, which nobody else knows.

use std::{fs, path::Path};

use bytes::Bytes;

use super::{ConfigError, fit::data_type};
use crate::{
    device::BatchInput,
    engine::request::element_count,
    model::{Signature, TensorSpec},
    tensor::{Data, DataType},
    wire::inference::{ModelWarmup, model_warmup::Input, model_warmup::input::InputDataType},
};

/// The folder of the files beside the versions.
const FOLDER: &str = "warmup";
/// The most runs of one sample.
const MAX_COUNT: u32 = 1000;
/// The most bytes of one input.
const MAX_BYTES: usize = 1 << 30;

/// A batch to run, and how often.
#[derive(Debug)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// How often.
    pub count: u32,
    /// The inputs in the model's order.
    pub inputs: Vec<BatchInput>,
}

/// Makes the batches that a configuration describes; `folder` is the model's.
///
/// # Errors
/// Names the first field that does not fit the model.
pub fn samples(wanted: &[ModelWarmup], signature: &Signature, folder: &Path) -> Result<Vec<Sample>, ConfigError> {
    wanted.iter().enumerate().map(|(index, warmup)| sample(warmup, index, signature, folder)).collect()
}

fn sample(warmup: &ModelWarmup, index: usize, signature: &Signature, folder: &Path) -> Result<Sample, ConfigError> {
    let field = format!("model_warmup[{index}]");
    let unknown = warmup.inputs.keys().find(|name| signature.inputs.iter().all(|spec| spec.name != **name));
    if let Some(name) = unknown {
        return Err(ConfigError::invalid(format!("{field}.inputs[\"{name}\"]"), "is no input of the model"));
    }
    if warmup.count > MAX_COUNT {
        let problem = format!("must be at most {MAX_COUNT}, not {}", warmup.count);
        return Err(ConfigError::invalid(format!("{field}.count"), problem));
    }
    let rows = signature.is_batched().then(|| usize::try_from(warmup.batch_size).unwrap_or(usize::MAX).max(1));
    let inputs = signature
        .inputs
        .iter()
        .map(|spec| {
            let field = format!("{field}.inputs[\"{}\"]", spec.name);
            let input =
                warmup.inputs.get(&spec.name).ok_or_else(|| ConfigError::invalid(field.as_str(), "is missing"))?;
            batch_input(input, spec, rows, &field, folder)
        })
        .collect::<Result<_, _>>()?;
    Ok(Sample { name: warmup.name.clone(), count: warmup.count.max(1), inputs })
}

fn batch_input(
    input: &Input,
    spec: &TensorSpec,
    rows: Option<usize>,
    field: &str,
    folder: &Path,
) -> Result<BatchInput, ConfigError> {
    if data_type(input.data_type) != Some(spec.data_type) {
        let problem = format!("must be the input's ({})", spec.data_type.name());
        return Err(ConfigError::invalid(format!("{field}.data_type"), problem));
    }
    let row: Vec<usize> = input.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
    let shape: Vec<usize> = rows.into_iter().chain(row.iter().copied()).collect();
    let fits = shape.len() == spec.dims.len()
        && shape.iter().zip(&spec.dims).all(|(size, dim)| *size > 0 && dim.is_none_or(|dim| dim == *size));
    let size = spec.data_type.size().unwrap_or(1);
    let count = element_count(&shape).filter(|count| fits && count.saturating_mul(size) <= MAX_BYTES);
    let Some(count) = count else {
        let problem =
            format!("must fit the input's shape {:?} and {MAX_BYTES} bytes, not {:?}", spec.wire_shape(), input.dims);
        return Err(ConfigError::invalid(format!("{field}.dims"), problem));
    };
    let data = match &input.input_data_type {
        Some(InputDataType::RandomData(true)) => random(spec.data_type, count),
        Some(InputDataType::InputDataFile(name)) => from_file(name, spec.data_type, &row, rows, field, folder)?,
        _ if spec.data_type == DataType::Bytes => Data::Strings(vec![Bytes::new(); count]),
        _ => Data::Fixed(vec![0; count * size].into()),
    };
    Ok(BatchInput::new(spec.data_type, shape, &data))
}

/// Floats from 0 to 1, whole numbers 0 or 1: values that every table has. The same each time.
fn random(data_type: DataType, count: usize) -> Data {
    let mut state = 0x9E37_79B9_u32;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        u16::try_from(state >> 16).unwrap_or(0)
    };
    let mut bytes = Vec::new();
    match data_type {
        DataType::Bytes => {
            return Data::Strings((0..count).map(|_| Bytes::from((next() % 2).to_string())).collect());
        }
        DataType::Fp16 => {
            let value = |next: u16| half::f16::from_f32(f32::from(next) / 65_536.0);
            (0..count).for_each(|_| bytes.extend(value(next()).to_le_bytes()));
        }
        DataType::Fp32 => (0..count).for_each(|_| bytes.extend((f32::from(next()) / 65_536.0).to_le_bytes())),
        DataType::Fp64 => (0..count).for_each(|_| bytes.extend((f64::from(next()) / 65_536.0).to_le_bytes())),
        _ => {
            let size = data_type.size().unwrap_or(1);
            for _ in 0..count {
                bytes.push((next() % 2) as u8);
                bytes.resize(bytes.len() + size - 1, 0);
            }
        }
    }
    Data::Fixed(bytes.into())
}

/// The raw bytes of one row, for each row.
fn from_file(
    name: &str,
    data_type: DataType,
    row: &[usize],
    rows: Option<usize>,
    field: &str,
    folder: &Path,
) -> Result<Data, ConfigError> {
    let field = format!("{field}.input_data_file");
    if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(ConfigError::invalid(
            field,
            format!("must be the name of a file in the model's folder '{FOLDER}'"),
        ));
    }
    let Some(size) = data_type.size() else {
        return Err(ConfigError::invalid(field, "has no form for strings"));
    };
    let expected = element_count(row).unwrap_or(0) * size;
    let file = folder.join(FOLDER).join(name);
    let unreadable = |problem: String| ConfigError::invalid(field.as_str(), format!("{}: {problem}", file.display()));
    let length = fs::metadata(&file).map_err(|error| unreadable(error.to_string()))?.len();
    if length != expected as u64 {
        return Err(unreadable(format!("must have the {expected} bytes of one row, not {length}")));
    }
    let bytes = fs::read(&file).map_err(|error| unreadable(error.to_string()))?;
    Ok(Data::Fixed(bytes.repeat(rows.unwrap_or(1)).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::text;

    fn signature() -> Signature {
        let spec = |name: &str, data_type, dims: &[Option<usize>]| TensorSpec {
            name: name.to_owned(),
            data_type,
            dims: dims.to_vec(),
        };
        Signature {
            inputs: vec![
                spec("x", DataType::Fp32, &[None, Some(2), None]),
                spec("ids", DataType::Int64, &[None, Some(1)]),
            ],
            outputs: vec![spec("y", DataType::Fp32, &[None, Some(1)])],
            platform: "test",
        }
    }

    fn made(text: &str, folder: &Path) -> Result<Vec<Sample>, String> {
        let config = text::parse(&format!("model_warmup {{ {text} }}")).unwrap();
        samples(&config.model_warmup, &signature(), folder).map_err(|error| error.to_string())
    }

    const IDS: &str = r#"inputs { key: "ids" value { data_type: TYPE_INT64 dims: [ 1 ] random_data: true } }"#;

    #[test]
    fn a_sample_has_the_shape_that_it_says() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(FOLDER)).unwrap();
        let row: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(folder.path().join(FOLDER).join("row"), row).unwrap();
        for (x, values) in [
            ("dims: [ 2, 1 ] input_data_file: \"row\"", vec![1.0, 2.0, 1.0, 2.0, 1.0, 2.0]),
            ("dims: [ 2, 1 ] zero_data: true", vec![0.0; 6]),
        ] {
            let text = format!(
                r#"name: "w" batch_size: 3 count: 2 inputs {{ key: "x" value {{ data_type: TYPE_FP32 {x} }} }} {IDS}"#
            );
            let sample = &made(&text, folder.path()).unwrap()[0];
            assert_eq!((sample.name.as_str(), sample.count), ("w", 2));
            assert_eq!(
                (sample.inputs[0].shape.as_slice(), sample.inputs[0].typed::<f32>().unwrap()),
                (&[3, 2, 1][..], values.as_slice())
            );
            let ids = sample.inputs[1].typed::<i64>().unwrap();
            assert!(ids.len() == 3 && ids.iter().all(|id| (0..=1).contains(id)), "{ids:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let x = |content: &str| format!(r#"inputs {{ key: "x" value {{ data_type: TYPE_FP32 {content} }} }} {IDS}"#);
        for (text, part) in [
            (IDS.to_owned(), "model_warmup[0].inputs[\"x\"] is missing"),
            (format!(r#"{IDS} inputs {{ key: "q" value {{}} }}"#), "model_warmup[0].inputs[\"q\"] is no input"),
            (x("dims: [ 3, 1 ]"), "inputs[\"x\"].dims must fit the input's shape [-1, 2, -1]"),
            (x("dims: [ 2, -1 ]"), "inputs[\"x\"].dims must fit"),
            (x("dims: [ 2, 4611686018427387904 ]"), "inputs[\"x\"].dims must fit"),
            (x("dims: [ 2, 1 ] input_data_file: \"../x\""), "must be the name of a file"),
            (x("dims: [ 2, 1 ] input_data_file: \"none\""), "inputs[\"x\"].input_data_file"),
            (format!("count: 1001 {}", x("dims: [ 2, 1 ]")), "model_warmup[0].count must be at most 1000"),
            (
                IDS.replace("INT64", "INT32") + &x("dims: [ 2, 1 ]").replace(IDS, ""),
                "inputs[\"ids\"].data_type must be the input's (INT64)",
            ),
        ] {
            let error = made(&text, folder.path()).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
