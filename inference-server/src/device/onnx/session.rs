//! From a plan to a session: each call that the library can refuse becomes a failure that says what to do.

use std::path::Path;

use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProviderDispatch},
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};

use super::{
    library::Library,
    plan::{Plan, Registration},
};
use crate::failure::{Failure, Reason};

const MODEL_FIX: &str =
    "check that the file is an ONNX model whose operators ONNX Runtime knows, with its external data beside it";

const PROVIDER_FIX: &str = "run on a GPU with its driver and with the provider's libraries (docs/install.md), or set \
                            executionProvider to Cpu or Auto";

/// Opens the model as planned.
///
/// # Errors
/// When the provider or the model can't be used.
pub(super) fn open(library: &Library, model: &Path, plan: &Plan) -> Result<Session, Failure> {
    let mut builder = register(library, plan)?;
    builder.commit_from_file(model).map_err(|error| {
        let message = format!("{} can't be loaded on {}: {error}", model.display(), plan.provider.as_str());
        Failure::new(Reason::ModelLoadFailed, message, MODEL_FIX)
    })
}

/// Registers the plan's providers without opening a model: loads their libraries, and finds out that they are not there.
///
/// # Errors
/// When a provider can't be used.
pub(super) fn register(library: &Library, plan: &Plan) -> Result<SessionBuilder, Failure> {
    let internal = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::Internal, format!("ONNX Runtime refuses a session option: {error}"), "report this")
    };
    let builder = Session::builder(library.environment())
        .map_err(|error| internal(&error))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| internal(&error))?
        .with_intra_threads(plan.threads)
        .map_err(|error| internal(&error))?
        // Threads that spin between batches would take the cores that decode the next one.
        .with_intra_op_spinning(false)
        .map_err(|error| internal(&error))?;
    let dispatches: Vec<ExecutionProviderDispatch> = plan.registrations.iter().map(dispatch).collect();
    builder.with_execution_providers(dispatches).map_err(|error| {
        let message =
            format!("the execution provider {} can't be used: {}", plan.provider.as_str(), shorten(&error.to_string()));
        Failure::new(Reason::ProviderUnavailable, message, PROVIDER_FIX)
    })
}

/// The library's default is to log a provider that can't register and to go on without it: here it always is an error.
fn dispatch(registration: &Registration) -> ExecutionProviderDispatch {
    let provider = match registration {
        Registration::TensorRt(options) => options
            .iter()
            .fold(ep::TensorRT::default(), |provider, (key, value)| provider.with_arbitrary_config(key, value))
            .build(),
        Registration::Cuda(options) => options
            .iter()
            .fold(ep::CUDA::default(), |provider, (key, value)| provider.with_arbitrary_config(key, value))
            .build(),
    };
    provider.error_on_failure()
}

/// The library's message without the name of its source file and without the lines of advice behind it.
fn shorten(message: &str) -> &str {
    let line = message.trim().lines().next().unwrap_or_default();
    line.split_once(" FAIL : ").map_or(line, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn a_missing_library_is_the_message() {
        let message = "/onnxruntime_src/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::\
                       ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library libx.so\n\nadvice";
        assert_eq!(shorten(message), "Failed to load library libx.so");
        assert_eq!(
            shorten("CUDA execution provider is not enabled in this build. "),
            "CUDA execution provider is not enabled in this build."
        );
    }
}
