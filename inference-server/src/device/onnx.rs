//! ONNX Runtime, loaded at run time from a library whose path is given.
//!
//! Each call that the library can refuse is mapped to a failure that says what to do; nothing falls back silently. A provider
//! that was asked for by name must register, or the start fails; Auto tries CUDA and says which one it took.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use bytes::Bytes;
use half::slice::HalfBitsSliceExt as _;
use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider as _, ExecutionProviderDispatch},
    session::{Session, SessionInputValue, SessionOutputs, builder::GraphOptimizationLevel},
    value::{DynValue, Outlet, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType},
};

use super::{BatchInput, Device, DeviceError, Executed, Values};
use crate::{
    failure::{Failure, Reason},
    model::{Signature, TensorSpec},
    settings::ExecutionProvider,
    tensor::{Data, DataType, Tensor, little_endian},
};

/// The environment variable that names the library, for messages.
const LIBRARY_VARIABLE: &str = "FLOTILLA_ORT_LIBRARY";

const MODEL_FIX: &str =
    "check that the file is an ONNX model whose operators ONNX Runtime knows, with its external data beside it";

/// A session and what it was made of.
pub struct Onnx {
    session: Session,
    signature: Signature,
    provider: &'static str,
}

impl Onnx {
    /// Loads the library and the model.
    ///
    /// # Errors
    /// When the library, the provider or the model can't be used.
    pub fn load(library: Option<&Path>, model: &Path, provider: ExecutionProvider) -> Result<Self, Failure> {
        let environment = load_library(library)?;
        let (session, provider) = match provider {
            ExecutionProvider::Cpu => (open(&environment, model, &[])?, "Cpu"),
            ExecutionProvider::Cuda => (open(&environment, model, &[cuda()])?, "Cuda"),
            ExecutionProvider::TensorRt => (open(&environment, model, &[tensor_rt(), cuda()])?, "TensorRt"),
            ExecutionProvider::Auto => open_auto(&environment, model)?,
        };
        let signature = Signature {
            inputs: session.inputs().iter().map(tensor_spec).collect::<Result<_, _>>()?,
            outputs: session.outputs().iter().map(tensor_spec).collect::<Result<_, _>>()?,
            platform: "onnxruntime_onnx",
        };
        Ok(Self { session, signature, provider })
    }
}

/// The library allows one environment in a process, and it must outlive all sessions.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Loads the library, the first time. A missing file is found here, because the library's own loader would only say that loading failed.
fn load_library(library: Option<&Path>) -> Result<Environment, Failure> {
    let fix = "set FLOTILLA_ORT_LIBRARY to the absolute path of libonnxruntime.so (version 1.23 or newer), \
               for example the one in the Python package onnxruntime";
    let not_found = |message: String| Failure::new(Reason::LibraryNotFound, message, fix);
    let path: PathBuf = match library {
        None => return Err(not_found(format!("{LIBRARY_VARIABLE} is not set"))),
        Some(path) if !path.is_absolute() => {
            return Err(not_found(format!("{LIBRARY_VARIABLE}={} is not an absolute path", path.display())));
        }
        Some(path) => path.to_path_buf(),
    };
    if !path.is_file() {
        return Err(not_found(format!("{LIBRARY_VARIABLE}={} is no file", path.display())));
    }
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
    }
    let loaded = ort::init_from(&path)
        .map_err(|error| not_found(error.to_string()))?
        .with_telemetry(false)
        .build()
        .map_err(|error| not_found(format!("ONNX Runtime from {} does not start: {error}", path.display())))?;
    Ok(environment.insert(loaded).clone())
}

/// CUDA where it really opens the model; a library that was built with CUDA says that it is available without a GPU too.
fn open_auto(environment: &Environment, model: &Path) -> Result<(Session, &'static str), Failure> {
    if ep::CUDA::is_available().unwrap_or(false) {
        match open(environment, model, &[cuda()]) {
            Ok(session) => return Ok((session, "Cuda")),
            Err(failure) if failure.reason == Reason::ProviderUnavailable => {
                tracing::warn!(%failure, "CUDA can't be used here, so the CPU executes the model");
            }
            Err(failure) => return Err(failure),
        }
    } else {
        tracing::info!("the library has no CUDA, so the CPU executes the model");
    }
    Ok((open(environment, model, &[])?, "Cpu"))
}

fn cuda() -> ExecutionProviderDispatch {
    ep::CUDA::default().build().error_on_failure()
}

fn tensor_rt() -> ExecutionProviderDispatch {
    ep::TensorRT::default().build().error_on_failure()
}

fn open(environment: &Environment, model: &Path, providers: &[ExecutionProviderDispatch]) -> Result<Session, Failure> {
    let internal = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::Internal, format!("ONNX Runtime refuses a session option: {error}"), "report this")
    };
    // The library counts the machine's cores; the container's share is what there is.
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let builder = Session::builder(environment)
        .map_err(|error| internal(&error))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| internal(&error))?
        .with_intra_threads(threads)
        .map_err(|error| internal(&error))?
        // Threads that spin between batches would take the cores that decode the next one.
        .with_intra_op_spinning(false)
        .map_err(|error| internal(&error))?;
    let mut builder = builder.with_execution_providers(providers).map_err(|error| {
        Failure::new(
            Reason::ProviderUnavailable,
            format!("the execution provider can't be used: {}", error.to_string().trim()),
            "run on a GPU with a library that was built for it, or set executionProvider to Cpu or Auto",
        )
    })?;
    builder.commit_from_file(model).map_err(|error| {
        Failure::new(Reason::ModelLoadFailed, format!("{} can't be loaded: {error}", model.display()), MODEL_FIX)
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

impl Device for Onnx {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &'static str {
        self.provider
    }

    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
        let start = Instant::now();
        let values = self
            .signature
            .inputs
            .iter()
            .zip(inputs)
            .map(|(spec, input)| Ok((spec.name.as_str(), input_value(input)?)))
            .collect::<Result<Vec<_>, DeviceError>>()?;
        let input = start.elapsed();
        let outputs = self.session.run(values).map_err(|error| DeviceError(error.to_string()))?;
        let infer = start.elapsed().saturating_sub(input);
        let tensors = output_tensors(&self.signature, &outputs)?;
        let output = start.elapsed().saturating_sub(input + infer);
        Ok(Executed { outputs: tensors, input, infer, output })
    }
}

/// Lends an input to the library without copying it.
fn input_value(input: &BatchInput) -> Result<SessionInputValue<'_>, DeviceError> {
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

fn output_tensors(signature: &Signature, outputs: &SessionOutputs<'_>) -> Result<Vec<Tensor>, DeviceError> {
    signature
        .outputs
        .iter()
        .map(|spec| {
            let value = outputs
                .get(&spec.name)
                .ok_or_else(|| DeviceError(format!("the model gave no output '{}'", spec.name)))?;
            output_tensor(spec, value).map_err(|error| DeviceError(format!("output '{}': {error}", spec.name)))
        })
        .collect()
}

fn output_tensor(spec: &TensorSpec, value: &DynValue) -> Result<Tensor, ort::Error> {
    macro_rules! take {
        ($type:ty, $to_data:expr) => {{
            let (shape, values) = value.try_extract_tensor::<$type>()?;
            (shape.clone(), $to_data(values))
        }};
    }
    let (shape, data) = match spec.data_type {
        DataType::Bool => take!(bool, |values: &[bool]| little_endian(values, |value| [u8::from(value)])),
        DataType::Uint8 => take!(u8, |values: &[u8]| Data::Fixed(Bytes::copy_from_slice(values))),
        DataType::Uint16 => take!(u16, |values: &[u16]| little_endian(values, u16::to_le_bytes)),
        DataType::Uint32 => take!(u32, |values: &[u32]| little_endian(values, u32::to_le_bytes)),
        DataType::Uint64 => take!(u64, |values: &[u64]| little_endian(values, u64::to_le_bytes)),
        DataType::Int8 => take!(i8, |values: &[i8]| little_endian(values, i8::to_le_bytes)),
        DataType::Int16 => take!(i16, |values: &[i16]| little_endian(values, i16::to_le_bytes)),
        DataType::Int32 => take!(i32, |values: &[i32]| little_endian(values, i32::to_le_bytes)),
        DataType::Int64 => take!(i64, |values: &[i64]| little_endian(values, i64::to_le_bytes)),
        DataType::Fp16 => take!(half::f16, |values: &[half::f16]| little_endian(values, half::f16::to_le_bytes)),
        DataType::Fp32 => take!(f32, |values: &[f32]| little_endian(values, f32::to_le_bytes)),
        DataType::Fp64 => take!(f64, |values: &[f64]| little_endian(values, f64::to_le_bytes)),
        DataType::Bytes => {
            let (shape, strings) = value.try_extract_strings()?;
            (shape.clone(), Data::Strings(strings.into_iter().map(Bytes::from).collect()))
        }
    };
    let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
    Ok(Tensor { data_type: spec.data_type, shape, data })
}
