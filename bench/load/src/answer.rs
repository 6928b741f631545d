//! Whether an answer is right: its form, how many values it has, and what they are.

use bytes::{Buf as _, Bytes};
use prost::Message;
use serde_json::Value;

use crate::plan::Form;

/// What was wrong with an answer.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum WrongAnswer {
    /// It is not of the form that was agreed.
    #[error("the answer is not {0}")]
    Form(&'static str),
    /// It has more or fewer values than the output's shape.
    #[error("the answer has {found} values instead of {expected}")]
    Count {
        /// In the answer.
        found: usize,
        /// In the output's shape.
        expected: usize,
    },
    /// A value is another one, or none.
    #[error("value {index} of the answer is not what it should be")]
    Value {
        /// From 0 on.
        index: usize,
    },
}

/// The part of `ModelInferResponse` that has the values.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(bytes = "bytes", repeated, tag = "6")]
    raw_output_contents: Vec<Bytes>,
}

/// Checks an answer's body. `header` is the length of the JSON before binary data, where the answer says one.
///
/// # Errors
/// What is wrong with it.
pub fn check(
    form: &Form,
    header: Option<usize>,
    body: Bytes,
    expected: &[f32],
    tolerance: f32,
) -> Result<(), WrongAnswer> {
    match form {
        Form::Float32 => same(&body, expected, tolerance),
        Form::V2Binary => {
            let header = header.filter(|length| *length <= body.len());
            let header = header.ok_or(WrongAnswer::Form("JSON and binary data"))?;
            same(&body[header..], expected, tolerance)
        }
        Form::Grpc => {
            let mut frame = body;
            if frame.len() < 5 || frame.get_u8() != 0 || frame.get_u32() as usize != frame.len() {
                return Err(WrongAnswer::Form("one message of gRPC, not compressed"));
            }
            let response = Response::decode(frame).map_err(|_| WrongAnswer::Form("a ModelInferResponse"))?;
            let values = response.raw_output_contents.first().ok_or(WrongAnswer::Form("with raw contents"))?;
            same(values, expected, tolerance)
        }
        Form::Json(pointer) => {
            let json: Value = serde_json::from_slice(&body).map_err(|_| WrongAnswer::Form("JSON"))?;
            let mut found = Vec::with_capacity(expected.len());
            flatten(
                json.pointer(pointer).ok_or(WrongAnswer::Form("JSON with the values where they should be"))?,
                &mut found,
            )?;
            close(found.into_iter(), expected, tolerance)
        }
    }
}

fn same(bytes: &[u8], expected: &[f32], tolerance: f32) -> Result<(), WrongAnswer> {
    if !bytes.len().is_multiple_of(4) {
        return Err(WrongAnswer::Form("32-bit floats"));
    }
    close(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])), expected, tolerance)
}

fn close(found: impl ExactSizeIterator<Item = f32>, expected: &[f32], tolerance: f32) -> Result<(), WrongAnswer> {
    if found.len() != expected.len() {
        return Err(WrongAnswer::Count { found: found.len(), expected: expected.len() });
    }
    // Not a number is not close to anything.
    let close = |found: f32, expected: f32| (found - expected).abs() <= tolerance;
    let wrong = found.zip(expected).position(|(found, expected)| !close(found, *expected));
    wrong.map_or(Ok(()), |index| Err(WrongAnswer::Value { index }))
}

#[expect(clippy::cast_possible_truncation, reason = "the values are 32-bit floats")]
fn flatten(value: &Value, into: &mut Vec<f32>) -> Result<(), WrongAnswer> {
    match value {
        Value::Array(values) => values.iter().try_for_each(|value| flatten(value, into)),
        Value::Number(number) => {
            into.push(number.as_f64().ok_or(WrongAnswer::Form("numbers"))? as f32);
            Ok(())
        }
        _ => Err(WrongAnswer::Form("numbers in lists")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Writer<'a> = &'a dyn Fn(&[f32]) -> Vec<u8>;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn grpc(values: &[f32]) -> Vec<u8> {
        let message = Response { raw_output_contents: vec![bytes(values).into()] }.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        frame
    }

    #[test]
    fn each_form_is_read_and_a_wrong_value_count_or_form_is_told() {
        let v2 = |values: &[f32]| [b"{}".to_vec(), bytes(values)].concat();
        let json = |values: &[f32]| serde_json::json!({"outputs": [{"data": [values]}]}).to_string().into_bytes();
        let pointer = Form::Json("/outputs/0/data".to_owned());
        let writers: [Writer<'_>; 4] = [&bytes, &v2, &json, &grpc];
        let forms = [(Form::Float32, None), (Form::V2Binary, Some(2)), (pointer, None), (Form::Grpc, None)];
        for ((form, header), write) in forms.into_iter().zip(writers) {
            let check = |values: &[f32]| check(&form, header, write(values).into(), &[1.0, -2.0], 0.01);
            assert_eq!(check(&[1.0, -2.005]), Ok(()), "{form:?}");
            assert_eq!(check(&[1.0, -2.02]), Err(WrongAnswer::Value { index: 1 }), "{form:?}");
            assert_eq!(check(&[1.0]), Err(WrongAnswer::Count { found: 1, expected: 2 }), "{form:?}");
            assert_eq!(check(&[]), Err(WrongAnswer::Count { found: 0, expected: 2 }), "{form:?}");
            let cut = write(&[1.0, -2.0]);
            let cut = Bytes::from(cut).slice(..write(&[1.0, -2.0]).len() - 1);
            let error = super::check(&form, header, cut, &[1.0, -2.0], 0.01);
            assert!(matches!(error, Err(WrongAnswer::Form(_))), "{form:?}: {error:?}");
        }
        let nothing = check(&Form::Float32, None, bytes(&[f32::NAN]).into(), &[0.0], 1.0);
        assert_eq!(nothing, Err(WrongAnswer::Value { index: 0 }));
    }
}
