//! From the shares of a request in one or more executions to its answer.

use std::sync::Arc;

use bytes::BytesMut;

use super::{
    Answer, InferError, Timing,
    request::NamedTensor,
    ticket::{Share, Ticket},
};
use crate::{
    model::{Signature, TensorSpec},
    tensor::{Data, Tensor},
};

/// Puts an answer together.
///
/// # Errors
/// When the parts of a request that was divided do not fit together.
pub(super) fn answer(mut shares: Vec<Share>, ticket: &Ticket, signature: &Signature) -> Result<Answer, InferError> {
    shares.sort_by_key(|share| share.first);
    let outputs = match whole(&mut shares, signature) {
        Some(outputs) => outputs,
        None => joined(&shares, signature)?,
    };
    let sum = |phase: usize| shares.iter().map(|share| share.phases[phase]).sum();
    let executions = shares.iter().map(|share| [share.started, share.started + share.phases.iter().sum()]);
    Ok(Answer {
        outputs,
        batch_rows: shares.iter().map(|share| share.batch_rows).max().unwrap_or(0),
        timing: Timing {
            decode: ticket.decoded(),
            queue: shares.iter().map(|share| share.queue).min().unwrap_or_default(),
            compute_input: sum(0),
            compute: sum(1),
            compute_output: sum(2),
            executed: executions.reduce(|[first, last], [start, end]| [first.min(start), last.max(end)]),
        },
    })
}

/// The outputs of an execution that was for this request alone, as they are: at low load, of every one.
fn whole(shares: &mut [Share], signature: &Signature) -> Option<Vec<NamedTensor>> {
    let [share] = shares else { return None };
    let outputs = Arc::get_mut(&mut share.outputs)?;
    let is_whole = |output: &Tensor| !signature.is_batched() || output.shape.first() == Some(&share.rows);
    if outputs.len() != signature.outputs.len() || !outputs.iter().all(is_whole) {
        return None;
    }
    let named = |(spec, tensor): (&TensorSpec, Tensor)| NamedTensor { name: spec.name.clone(), tensor };
    Some(signature.outputs.iter().zip(std::mem::take(outputs)).map(named).collect())
}

/// The request's rows of one or more executions.
fn joined(shares: &[Share], signature: &Signature) -> Result<Vec<NamedTensor>, InferError> {
    let outputs = signature.outputs.iter().enumerate();
    outputs
        .map(|(index, spec)| {
            let missing = || InferError::Backend(format!("the execution gave no output '{}'", spec.name));
            let parts: Vec<Tensor> = shares
                .iter()
                .map(|share| {
                    let output = share.outputs.get(index)?;
                    Some(if signature.is_batched() { output.rows(share.at, share.rows) } else { output.clone() })
                })
                .collect::<Option<_>>()
                .ok_or_else(missing)?;
            let tensor = join(parts).ok_or_else(|| {
                InferError::Backend(format!(
                    "the output '{}' has rows of another shape in each of the request's executions; send fewer rows",
                    spec.name
                ))
            })?;
            Ok(NamedTensor { name: spec.name.clone(), tensor })
        })
        .collect()
}

/// Rows after rows; none where they differ in type or shape.
fn join(mut parts: Vec<Tensor>) -> Option<Tensor> {
    if parts.len() == 1 {
        return parts.pop();
    }
    let first = parts.first()?;
    let (data_type, mut shape) = (first.data_type, first.shape.clone());
    if parts.iter().any(|part| part.data_type != data_type || part.shape.get(1..) != shape.get(1..)) {
        return None;
    }
    *shape.first_mut()? = parts.iter().filter_map(|part| part.shape.first()).sum();
    let data = if data_type.size().is_some() {
        let mut bytes = BytesMut::new();
        for part in &parts {
            if let Data::Fixed(part) = &part.data {
                bytes.extend_from_slice(part);
            }
        }
        Data::Fixed(bytes.freeze())
    } else {
        let strings =
            parts.into_iter().filter_map(|part| if let Data::Strings(part) = part.data { Some(part) } else { None });
        Data::Strings(strings.flatten().collect())
    };
    Some(Tensor { data_type, shape, data })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tensor::DataType;

    fn rows(shape: &[usize], bytes: &[u8]) -> Tensor {
        Tensor { data_type: DataType::Uint8, shape: shape.to_vec(), data: Data::Fixed(Bytes::copy_from_slice(bytes)) }
    }

    #[test]
    fn parts_are_joined_in_their_order() {
        assert_eq!(join(vec![rows(&[1, 2], &[1, 2])]), Some(rows(&[1, 2], &[1, 2])));
        let parts = vec![rows(&[1, 2], &[1, 2]), rows(&[2, 2], &[3, 4, 5, 6])];
        assert_eq!(join(parts), Some(rows(&[3, 2], &[1, 2, 3, 4, 5, 6])));
        assert_eq!(join(vec![rows(&[1, 2], &[1, 2]), rows(&[1, 3], &[1, 2, 3])]), None);
        let text = |texts: &[&'static str]| Tensor {
            data_type: DataType::Bytes,
            shape: vec![texts.len()],
            data: Data::Strings(texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()),
        };
        assert_eq!(join(vec![text(&["a", "b"]), text(&["c"])]), Some(text(&["a", "b", "c"])));
    }
}
