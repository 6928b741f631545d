//! Auto: each provider that the library has runs at the working batch, and its answers are compared with the processor's. The
//! decision is remembered, so that the next replica on such a GPU starts without measuring.

use super::{
    Opener, Reference,
    choose::{Choice, Measurement, Outcome, choose},
    measure::measure,
};
use crate::{
    device::{
        engine_cache::key::Key,
        onnx::{
            Onnx,
            plan::{Plan, Provider},
        },
    },
    failure::Failure,
};

impl Opener<'_> {
    /// Opens what is best here, and says why.
    pub(super) fn auto(&self) -> Result<(Vec<Onnx>, Choice), Failure> {
        let offered: Vec<Provider> =
            [Provider::Cuda, Provider::TensorRt].into_iter().filter(|provider| self.library.has(*provider)).collect();
        if offered.is_empty() {
            let choice = choose(Vec::new());
            tracing::info!(reason = choice.reason, "Auto takes the CPU");
            return Ok((self.instances(Provider::Cpu, None)?, choice));
        }
        let keeps_engines = self.opening.cache.is_some_and(|cache| cache.is_persistent);
        let has_tensor_rt = keeps_engines
            && offered.contains(&Provider::TensorRt)
            && self.library.register(&Plan::tensor_rt_probe()).is_ok();
        let accelerators = format!("{:?} {:?} {has_tensor_rt}", self.opening.accelerators, self.opening.buckets);
        let key = Key::of_choice(
            self.opening.model_sha256,
            &self.hardware,
            &self.software(),
            self.opening.max_rows,
            &accelerators,
        );
        if let Some(choice) = self.cache.as_ref().and_then(|cache| cache.recall::<Choice>(&key)) {
            match self.instances(choice.provider, None) {
                Ok(devices) => {
                    tracing::info!(provider = choice.provider.as_str(), reason = choice.reason, "Auto remembers");
                    return Ok((devices, choice));
                }
                Err(failure) => {
                    tracing::warn!(%failure, "what Auto remembers can't be used any more; it decides again");
                    self.cache.iter().for_each(|cache| cache.forget(&key));
                }
            }
        }
        let reference = self.reference()?;
        let measurements = offered.into_iter().map(|provider| self.candidate(provider, &reference)).collect();
        let choice = choose(measurements);
        if choice.provider == Provider::Cpu {
            tracing::warn!(reason = choice.reason, "Auto takes the CPU");
        } else {
            tracing::info!(provider = choice.provider.as_str(), reason = choice.reason, "Auto has decided");
            if let Some(error) = self.cache.as_ref().and_then(|cache| cache.remember(&key, &choice).err()) {
                tracing::warn!(%error, "Auto's decision is not kept");
            }
        }
        Ok((self.instances(choice.provider, Some(&reference))?, choice))
    }

    fn candidate(&self, provider: Provider, reference: &Reference) -> Measurement {
        if provider == Provider::TensorRt && !self.opening.cache.is_some_and(|cache| cache.is_persistent) {
            let why = "each new replica would build its engines again, for minutes: give it a persistent cache";
            return Measurement { provider, outcome: Outcome::LeftOut(why.to_owned()) };
        }
        let rows = if reference.signature.is_batched() { self.opening.max_rows } else { 1 };
        let outcome = self.one(provider, Some(reference)).and_then(|mut device| {
            let agreement = self.ask(&mut device, reference)?;
            let (images_per_second, _) =
                measure(&mut device, rows).map_err(|error| self.does_not_run(provider.as_str(), &error.0))?;
            Ok(Outcome::Ran { images_per_second, agreement })
        });
        Measurement { provider, outcome: outcome.unwrap_or_else(|failure| Outcome::Failed(failure.message)) }
    }
}
