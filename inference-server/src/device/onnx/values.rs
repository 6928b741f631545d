//! Tensors into the library and out of it. Nothing of a fixed size is copied on either way: inputs are lent, and the library's
//! own memory of an output lives as long as the last answer that shows a part of it.

use bytes::Bytes;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use ort::{
    session::{SessionInputValue, SessionOutputs},
    value::{
        DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef,
        TensorValueType, ValueType,
    },
};

use crate::{
    device::{BatchInput, DeviceError, Values},
    failure::{Failure, Reason},
    model::{Signature, TensorSpec},
    tensor::{Data, DataType, Tensor},
};

/// What the session takes and gives.
pub(super) fn signature(inputs: &[Outlet], outputs: &[Outlet]) -> Result<Signature, Failure> {
    Ok(Signature {
        inputs: inputs.iter().map(tensor_spec).collect::<Result<_, _>>()?,
        outputs: outputs.iter().map(tensor_spec).collect::<Result<_, _>>()?,
        platform: "onnxruntime_onnx",
    })
}

fn tensor_spec(outlet: &Outlet) -> Result<TensorSpec, Failure> {
    let unsupported = |what: String| {
        let message = format!("'{}' of the model is {what}", outlet.name());
        Failure::new(Reason::ModelLoadFailed, message, "export the model with tensors of a KServe v2 type only")
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(unsupported("no tensor".to_owned()));
    };
    let data_type = match ty {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        other => return Err(unsupported(format!("a tensor of {other}"))),
    };
    let dims = shape.iter().map(|size| usize::try_from(*size).ok()).collect();
    Ok(TensorSpec { name: outlet.name().to_owned(), data_type, dims })
}

/// Lends an input to the library without copying it.
pub(super) fn input_value(input: &BatchInput) -> Result<SessionInputValue<'_>, DeviceError> {
    let shape = input.shape.clone();
    macro_rules! lend {
        ($values:expr) => {
            TensorRef::from_array_view((shape, $values)).map(SessionInputValue::from)
        };
    }
    let value = match (&input.values, input.data_type) {
        (Values::Strings(values), _) => {
            let strings: Vec<String> = values.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
            OrtTensor::from_string_array((shape, strings.as_slice())).map(SessionInputValue::from)
        }
        (_, DataType::Bool) => lend!(input.bools()?),
        (_, DataType::Uint8) => lend!(input.typed::<u8>()?),
        (_, DataType::Uint16) => lend!(input.typed::<u16>()?),
        (_, DataType::Uint32) => lend!(input.typed::<u32>()?),
        (_, DataType::Uint64) => lend!(input.typed::<u64>()?),
        (_, DataType::Int8) => lend!(input.typed::<i8>()?),
        (_, DataType::Int16) => lend!(input.typed::<i16>()?),
        (_, DataType::Int32) => lend!(input.typed::<i32>()?),
        (_, DataType::Int64) => lend!(input.typed::<i64>()?),
        (_, DataType::Fp16) => lend!(input.typed::<u16>()?.reinterpret_cast::<half::f16>()),
        (_, DataType::Fp32) => lend!(input.typed::<f32>()?),
        (_, DataType::Fp64) => lend!(input.typed::<f64>()?),
        (_, DataType::Bytes) => return Err(DeviceError("a BYTES input has no strings".to_owned())),
    };
    value.map_err(|error| DeviceError(error.to_string()))
}

/// Takes the outputs over, in the model's order.
pub(super) fn output_tensors(
    signature: &Signature,
    mut outputs: SessionOutputs<'_>,
) -> Result<Vec<Tensor>, DeviceError> {
    signature
        .outputs
        .iter()
        .map(|spec| {
            let value = outputs
                .remove(&spec.name)
                .ok_or_else(|| DeviceError(format!("the model gave no output '{}'", spec.name)))?;
            output_tensor(spec.data_type, value)
                .map_err(|error| DeviceError(format!("output '{}': {error}", spec.name)))
        })
        .collect()
}

/// An output whose memory is the library's, seen as bytes.
struct Output<T: PrimitiveTensorElementType + std::fmt::Debug> {
    tensor: OrtTensor<T>,
    view: fn(&[T]) -> &[u8],
}

impl<T: PrimitiveTensorElementType + std::fmt::Debug> AsRef<[u8]> for Output<T> {
    fn as_ref(&self) -> &[u8] {
        self.tensor.try_extract_tensor().map_or(&[], |(_, values)| (self.view)(values))
    }
}

fn own<T>(value: DynValue, view: fn(&[T]) -> &[u8]) -> Result<(Vec<usize>, Data), ort::Error>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + 'static,
{
    let tensor = value.downcast::<TensorValueType<T>>()?;
    // Memory that the processor can't read is refused here, so that showing it later can't fail.
    tensor.try_extract_tensor::<T>()?;
    let shape = shape(tensor.shape());
    Ok((shape, Data::Fixed(Bytes::from_owner(Output { tensor, view }))))
}

fn shape(sizes: &[i64]) -> Vec<usize> {
    sizes.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect()
}

fn output_tensor(data_type: DataType, value: DynValue) -> Result<Tensor, ort::Error> {
    let (shape, data) = match data_type {
        DataType::Bool => own::<bool>(value, bytemuck::cast_slice)?,
        DataType::Uint8 => own::<u8>(value, bytemuck::cast_slice)?,
        DataType::Uint16 => own::<u16>(value, bytemuck::cast_slice)?,
        DataType::Uint32 => own::<u32>(value, bytemuck::cast_slice)?,
        DataType::Uint64 => own::<u64>(value, bytemuck::cast_slice)?,
        DataType::Int8 => own::<i8>(value, bytemuck::cast_slice)?,
        DataType::Int16 => own::<i16>(value, bytemuck::cast_slice)?,
        DataType::Int32 => own::<i32>(value, bytemuck::cast_slice)?,
        DataType::Int64 => own::<i64>(value, bytemuck::cast_slice)?,
        DataType::Fp16 => own::<half::f16>(value, |values| bytemuck::cast_slice(values.reinterpret_cast()))?,
        DataType::Fp32 => own::<f32>(value, bytemuck::cast_slice)?,
        DataType::Fp64 => own::<f64>(value, bytemuck::cast_slice)?,
        DataType::Bytes => {
            let (sizes, strings) = value.try_extract_strings()?;
            (shape(sizes), Data::Strings(strings.into_iter().map(Bytes::from).collect()))
        }
    };
    Ok(Tensor { data_type, shape, data })
}
