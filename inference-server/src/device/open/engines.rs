//! TensorRT's engines: one for all sizes of a batch, or one for each bucket, from the cache where it has them.
//!
//! Several instances build once: the first leaves what the others find.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ort::session::Session;

use super::{Opener, broken_cache};
use crate::{
    device::{
        engine_cache::{Build, Lookup, key::Key},
        onnx::{
            Onnx,
            plan::{self, EngineFolder, Plan, Provider},
            profile::{OpenDimension, Rows},
        },
    },
    failure::{Failure, Reason},
    model::Signature,
};

/// How long a server waits for another one that builds the same engine. Large models take ten minutes.
const PATIENCE: Duration = Duration::from_mins(20);

fn open_dimension(error: &OpenDimension) -> Failure {
    Failure::new(Reason::ModelLoadFailed, error.to_string(), "do that, or set executionProvider to Cuda")
}

impl Opener<'_> {
    /// TensorRT's engines: one for all sizes of a batch, or one for each bucket, from the cache where it has them.
    pub(super) fn engines(&self, signature: &Signature) -> Result<Onnx, Failure> {
        let mut buckets = self.opening.buckets.to_vec();
        buckets.sort_unstable_by(|a, b| b.cmp(a));
        let ranges: Vec<Rows> = match (signature.is_batched(), buckets.is_empty()) {
            (true, false) => buckets.into_iter().map(Rows::exactly).collect(),
            (true, true) => vec![Rows::up_to(self.opening.max_rows)],
            (false, _) => vec![Rows::exactly(1)],
        };
        let is_single = ranges.len() == 1 && self.opening.buckets.is_empty();
        let sessions = ranges
            .into_iter()
            .map(|rows| Ok(((!is_single).then_some(rows.max), self.engine(signature, rows)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Onnx::of_sessions(sessions, signature.clone(), Provider::TensorRt))
    }

    fn engine(&self, signature: &Signature, rows: Rows) -> Result<Session, Failure> {
        let accelerators = self.opening.accelerators;
        let plan = |folder: Option<&Path>| {
            let folder = folder.map(|folder| folder.to_string_lossy().into_owned());
            Plan::tensor_rt(accelerators, &signature.inputs, rows, folder.as_deref().map(EngineFolder))
                .map_err(|error| open_dimension(&error))
        };
        let Some(cache) = &self.cache else {
            tracing::warn!(
                rows = rows.max,
                "building a TensorRT engine, which takes minutes and is not kept: there is no cache.path"
            );
            return Onnx::session(&self.library, self.opening.model, &plan(None)?);
        };
        let options =
            plan::tensor_rt_options(accelerators, &signature.inputs, rows).map_err(|error| open_dimension(&error))?;
        let software = self.software();
        let key = Key::of_engine(self.opening.model_sha256, &self.hardware, &software, &options);
        let find = || cache.find(&key, PATIENCE).map_err(|error| broken_cache(&error));
        let mut lookup = find()?;
        if let Lookup::Found(entry) = lookup {
            match Onnx::session(&self.library, self.opening.model, &plan(Some(entry.folder()))?) {
                Ok(session) => {
                    tracing::info!(key = key.digest(), rows = rows.max, "a TensorRT engine from the cache");
                    return Ok(session);
                }
                Err(failure) => {
                    tracing::warn!(key = key.digest(), %failure, "a cached engine can't be used; it is built again");
                    cache.reject(entry).map_err(|error| broken_cache(&error))?;
                    lookup = find()?;
                }
            }
        }
        match lookup {
            Lookup::Found(entry) => Onnx::session(&self.library, self.opening.model, &plan(Some(entry.folder()))?),
            Lookup::Missing(build) => self.build(build, &key, rows, plan),
        }
    }

    fn build(
        &self,
        build: Build,
        key: &Key,
        rows: Rows,
        plan: impl Fn(Option<&Path>) -> Result<Plan, Failure>,
    ) -> Result<Session, Failure> {
        tracing::info!(key = key.digest(), rows = rows.max, "building a TensorRT engine, which takes minutes");
        let start = Instant::now();
        let timing = Key::of_timing(&self.hardware, &self.software());
        build.take_timing(&timing);
        let session = Onnx::session(&self.library, self.opening.model, &plan(Some(build.folder()))?)?;
        build.give_timing(&timing);
        let seconds = start.elapsed().as_secs_f64();
        match build.commit() {
            Ok(()) => tracing::info!(key = key.digest(), seconds, "built a TensorRT engine and kept it"),
            // The engine is in memory: the next start pays, not this one.
            Err(error) => {
                tracing::warn!(key = key.digest(), seconds, %error, "built a TensorRT engine, which is not kept");
            }
        }
        Ok(session)
    }
}
