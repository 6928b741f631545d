//! From what a client sent to what the pipeline works on: the checks that every protocol shares.

use bytes::Bytes;

use crate::{
    model::{Signature, TensorSpec},
    tensor::{Data, DataType, Tensor},
};

/// A tensor with the name that the client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// The input's or output's name.
    pub name: String,
    /// The values.
    pub tensor: Tensor,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Tensors by name.
    Tensors(Vec<NamedTensor>),
    /// Bytes without a name or a type: one image, or the only tensor.
    Raw(Bytes),
}

/// What the pipeline works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// One tensor for each of the model's inputs, in the model's order, checked.
    Tensors(Vec<Tensor>),
    /// Image files for the model's one image input.
    Images(Vec<Bytes>),
}

/// Puts a payload into the model's order and checks names, types, shapes and sizes.
///
/// # Errors
/// A sentence for the client, close to Triton's own words.
pub fn arrange(
    payload: Payload,
    model: &str,
    signature: &Signature,
    image_input: Option<usize>,
    max_rows: usize,
) -> Result<(Work, usize), String> {
    let (work, rows) = match payload {
        Payload::Raw(bytes) if image_input.is_some() => (Work::Images(vec![bytes]), 1),
        Payload::Raw(bytes) => (Work::Tensors(vec![raw_tensor(bytes, model, signature)?]), 1),
        Payload::Tensors(tensors) => arrange_tensors(tensors, model, signature, image_input)?,
    };
    if rows > max_rows {
        return Err(format!("inference request batch-size must be <= {max_rows} for '{model}', got {rows}"));
    }
    Ok((work, rows))
}

fn arrange_tensors(
    tensors: Vec<NamedTensor>,
    model: &str,
    signature: &Signature,
    image_input: Option<usize>,
) -> Result<(Work, usize), String> {
    let mut slots: Vec<Option<Tensor>> = vec![None; signature.inputs.len()];
    for NamedTensor { name, tensor } in tensors {
        let index = signature
            .inputs
            .iter()
            .position(|spec| spec.name == name)
            .ok_or_else(|| format!("unexpected inference input '{name}' for model '{model}'"))?;
        if slots[index].replace(tensor).is_some() {
            return Err(format!("input '{name}' appears more than once in the request for model '{model}'"));
        }
    }
    let given = slots.iter().flatten().count();
    let tensors: Vec<Tensor> = slots.into_iter().flatten().collect();
    if given != signature.inputs.len() {
        return Err(format!("expected {} inputs but got {given} inputs for model '{model}'", signature.inputs.len()));
    }
    if let (Some(_), [tensor]) = (image_input, tensors.as_slice())
        && tensor.data_type == DataType::Bytes
    {
        return image_files(tensor, &signature.inputs[0]);
    }
    let mut rows = None;
    for (tensor, spec) in tensors.iter().zip(&signature.inputs) {
        check_tensor(tensor, spec, model)?;
        let count = tensor.shape.first().copied().unwrap_or(1);
        if signature.is_batched() && *rows.get_or_insert(count) != count {
            return Err(format!("input '{}' batch size does not match other inputs for '{model}'", spec.name));
        }
    }
    let rows = if signature.is_batched() { rows.unwrap_or(0) } else { 1 };
    if rows == 0 {
        return Err(format!("the request for model '{model}' has no rows: the first dimension must be at least 1"));
    }
    Ok((Work::Tensors(tensors), rows))
}

/// The files in a BYTES tensor of shape `[N]` or `[N,1]`.
fn image_files(tensor: &Tensor, spec: &TensorSpec) -> Result<(Work, usize), String> {
    let Data::Strings(files) = &tensor.data else {
        return Err(format!("input '{}' has no BYTES elements", spec.name));
    };
    let ([rows] | [rows, 1]) = *tensor.shape.as_slice() else {
        return Err(format!(
            "input '{}' of type BYTES holds image files and has shape [N] or [N,1], got {}",
            spec.name,
            shape_text(&tensor.shape)
        ));
    };
    if rows == 0 || rows != files.len() {
        return Err(format!("input '{}' has {} images where its shape says {rows}", spec.name, files.len()));
    }
    Ok((Work::Images(files.clone()), rows))
}

fn check_tensor(tensor: &Tensor, spec: &TensorSpec, model: &str) -> Result<(), String> {
    if tensor.data_type != spec.data_type {
        return Err(format!(
            "inference input '{}' data-type is '{}', but model '{model}' expects '{}'",
            spec.name,
            tensor.data_type.name(),
            spec.data_type.name()
        ));
    }
    let fits = tensor.shape.len() == spec.dims.len()
        && tensor.shape.iter().zip(&spec.dims).all(|(size, dim)| dim.is_none_or(|wanted| wanted == *size));
    if !fits {
        let wanted: Vec<String> = spec.wire_shape().iter().map(ToString::to_string).collect();
        return Err(format!(
            "unexpected shape for input '{}' for model '{model}'. Expected [{}], got {}",
            spec.name,
            wanted.join(","),
            shape_text(&tensor.shape)
        ));
    }
    let count = element_count(&tensor.shape)
        .ok_or_else(|| format!("the shape {} of input '{}' is too large", shape_text(&tensor.shape), spec.name))?;
    let matches = match (&tensor.data, spec.data_type.size()) {
        (Data::Fixed(bytes), Some(size)) => count.checked_mul(size) == Some(bytes.len()),
        (Data::Strings(strings), None) => strings.len() == count,
        (Data::Fixed(_), None) | (Data::Strings(_), Some(_)) => false,
    };
    if spec.data_type == DataType::Bool
        && let Data::Fixed(bytes) = &tensor.data
        && bytes.iter().any(|byte| *byte > 1)
    {
        return Err(format!("input '{}' has BOOL elements other than 0 and 1", spec.name));
    }
    if matches {
        Ok(())
    } else {
        Err(format!(
            "unexpected size for input '{}': its shape {} needs {count} elements",
            spec.name,
            shape_text(&tensor.shape)
        ))
    }
}

/// A body without a header is one row of the model's only input; its one open dimension follows from the body's size.
fn raw_tensor(bytes: Bytes, model: &str, signature: &Signature) -> Result<Tensor, String> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(format!(
            "a raw binary request needs a model with one input, and '{model}' has {}",
            signature.inputs.len()
        ));
    };
    let skipped = usize::from(signature.is_batched());
    let Some(size) = spec.data_type.size() else {
        let tensor = Tensor {
            data_type: spec.data_type,
            shape: spec.dims.iter().map(|dim| dim.unwrap_or(1)).collect(),
            data: Data::Strings(vec![bytes]),
        };
        return check_tensor(&tensor, spec, model).map(|()| tensor);
    };
    let known = element_count(&spec.dims[skipped..].iter().flatten().copied().collect::<Vec<_>>())
        .and_then(|count| count.checked_mul(size))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("model '{model}' takes no raw binary request"))?;
    let open = spec.dims[skipped..].iter().filter(|dim| dim.is_none()).count();
    if open > 1 || !bytes.len().is_multiple_of(known) || (open == 0 && bytes.len() != known) {
        return Err(format!(
            "unexpected size for input '{}', expecting {known} bytes for model '{model}', got {}",
            spec.name,
            bytes.len()
        ));
    }
    let shape = spec
        .dims
        .iter()
        .enumerate()
        .map(|(index, dim)| if index < skipped { 1 } else { dim.unwrap_or(bytes.len() / known) })
        .collect();
    Ok(Tensor { data_type: spec.data_type, shape, data: Data::Fixed(bytes) })
}

/// The number of elements, or none where it does not fit in memory.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |count, size| count.checked_mul(*size))
        .filter(|count| isize::try_from(*count).is_ok())
}

fn shape_text(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", sizes.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(dims: &[Option<usize>], data_type: DataType) -> Signature {
        let spec = |name: &str| TensorSpec { name: name.to_owned(), data_type, dims: dims.to_vec() };
        Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], platform: "test" }
    }

    fn tensor(name: &str, data_type: DataType, shape: &[usize], bytes: usize) -> NamedTensor {
        let data = Data::Fixed(Bytes::from(vec![0; bytes]));
        NamedTensor { name: name.to_owned(), tensor: Tensor { data_type, shape: shape.to_vec(), data } }
    }

    #[test]
    fn tensors_are_checked() {
        let model = signature(&[None, Some(2)], DataType::Fp32);
        let good = tensor("x", DataType::Fp32, &[3, 2], 24);
        let arranged = |tensors: Vec<NamedTensor>| arrange(Payload::Tensors(tensors), "m", &model, None, 4);
        assert_eq!(arranged(vec![good.clone()]).unwrap().1, 3);
        for (tensors, part) in [
            (vec![], "expected 1 inputs but got 0 inputs for model 'm'"),
            (vec![tensor("z", DataType::Fp32, &[1, 2], 8)], "unexpected inference input 'z' for model 'm'"),
            (vec![good.clone(), good], "more than once"),
            (vec![tensor("x", DataType::Int32, &[1, 2], 8)], "data-type is 'INT32', but model 'm' expects 'FP32'"),
            (vec![tensor("x", DataType::Fp32, &[1, 3], 12)], "Expected [-1,2], got [1,3]"),
            (vec![tensor("x", DataType::Fp32, &[2], 8)], "Expected [-1,2], got [2]"),
            (vec![tensor("x", DataType::Fp32, &[1, 2], 4)], "unexpected size for input 'x'"),
            (vec![tensor("x", DataType::Fp32, &[0, 2], 0)], "has no rows"),
            (vec![tensor("x", DataType::Fp32, &[5, 2], 40)], "batch-size must be <= 4 for 'm', got 5"),
            (vec![tensor("x", DataType::Fp32, &[usize::MAX, 2], 0)], "too large"),
        ] {
            let error = arranged(tensors).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    #[test]
    fn a_raw_body_is_one_row() {
        let fixed = signature(&[None, Some(2)], DataType::Fp32);
        let open = signature(&[None, Some(2), None], DataType::Fp32);
        let raw = |model: &Signature, bytes: usize| {
            arrange(Payload::Raw(Bytes::from(vec![0; bytes])), "m", model, None, 4).map(|(work, _)| match work {
                Work::Tensors(tensors) => tensors[0].shape.clone(),
                Work::Images(_) => vec![],
            })
        };
        assert_eq!(raw(&fixed, 8).unwrap(), [1, 2]);
        assert!(raw(&fixed, 16).unwrap_err().contains("expecting 8 bytes"));
        assert_eq!(raw(&open, 24).unwrap(), [1, 2, 3]);
        assert!(raw(&open, 7).unwrap_err().contains("unexpected size"));
    }

    #[test]
    fn bytes_for_an_image_input_are_files() {
        let model = signature(&[None, Some(3), Some(2), Some(2)], DataType::Fp32);
        let files = |shape: &[usize]| {
            let data = Data::Strings(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
            let tensor = Tensor { data_type: DataType::Bytes, shape: shape.to_vec(), data };
            arrange(Payload::Tensors(vec![NamedTensor { name: "x".to_owned(), tensor }]), "m", &model, Some(0), 4)
        };
        assert_eq!(files(&[2]).unwrap().1, 2);
        assert_eq!(files(&[2, 1]).unwrap().1, 2);
        assert!(files(&[1, 2]).unwrap_err().contains("shape [N] or [N,1]"));
        assert!(files(&[3]).unwrap_err().contains("2 images where its shape says 3"));
    }
}
