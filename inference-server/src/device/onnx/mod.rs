//! ONNX Runtime, loaded at run time from a library whose path is given. In reading order:
//!
//! - [`library`]: the library and its version.
//! - [`plan`], [`profile`], [`accelerators`]: what a session is to be made of, as data.
//! - `session`: from the plan to a session, without any silent fallback.
//! - `values`: tensors in and out without a copy.

pub mod accelerators;
pub mod library;
pub mod plan;
pub mod profile;
mod session;
mod values;

use std::{path::Path, time::Instant};

use ort::session::Session;

use self::{
    library::Library,
    plan::{Plan, Provider},
};
use super::{BatchInput, Device, DeviceError, Executed};
use crate::{failure::Failure, model::Signature};

/// One session, or one for each size of a batch.
pub struct Onnx {
    sessions: Vec<Sized>,
    signature: Signature,
    provider: Provider,
}

/// A session and the batches that it takes.
struct Sized {
    /// The only size, or none where it takes all.
    rows: Option<usize>,
    session: Session,
}

impl Onnx {
    /// Opens one session for batches of all sizes.
    ///
    /// # Errors
    /// When the provider or the model can't be used.
    pub fn open(library: &Library, model: &Path, plan: &Plan) -> Result<Self, Failure> {
        let session = session::open(library, model, plan)?;
        let signature = values::signature(session.inputs(), session.outputs())?;
        Ok(Self { sessions: vec![Sized { rows: None, session }], signature, provider: plan.provider })
    }

    /// One device of several sessions, each with the only size of a batch that it takes, or none where it takes all.
    pub fn of_sessions(sessions: Vec<(Option<usize>, Session)>, signature: Signature, provider: Provider) -> Self {
        let sessions = sessions.into_iter().map(|(rows, session)| Sized { rows, session }).collect();
        Self { sessions, signature, provider }
    }

    /// A session for [`Self::of_sessions`].
    ///
    /// # Errors
    /// When the provider or the model can't be used.
    pub fn session(library: &Library, model: &Path, plan: &Plan) -> Result<Session, Failure> {
        session::open(library, model, plan)
    }
}

impl Device for Onnx {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &'static str {
        self.provider.as_str()
    }

    fn has_kernels_by_size(&self) -> bool {
        self.provider != Provider::Cpu
    }

    fn run(&mut self, inputs: &[BatchInput]) -> Result<Executed, DeviceError> {
        let start = Instant::now();
        let rows = inputs.first().and_then(|input| input.shape.first()).copied();
        let session = self
            .sessions
            .iter_mut()
            .find(|session| session.rows.is_none() || session.rows == rows)
            .map(|session| &mut session.session)
            .ok_or_else(|| DeviceError(format!("no engine was built for a batch of {}", rows.unwrap_or(0))))?;
        let values = self
            .signature
            .inputs
            .iter()
            .zip(inputs)
            .map(|(spec, input)| Ok((spec.name.as_str(), values::input_value(input)?)))
            .collect::<Result<Vec<_>, DeviceError>>()?;
        let input = start.elapsed();
        let outputs = session.run(values).map_err(|error| DeviceError(error.to_string()))?;
        let infer = start.elapsed().saturating_sub(input);
        let outputs = values::output_tensors(&self.signature, outputs)?;
        let output = start.elapsed().saturating_sub(input + infer);
        Ok(Executed { outputs, input, infer, output })
    }
}
