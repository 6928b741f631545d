//! What a session is made of, as data: the provider, its options in the library's own words, and the threads. Pure.
//!
//! A GPU provider that was planned must register, or the session is not opened. `session.disable_cpu_ep_fallback` is left
//! alone on purpose: the library itself puts the little arithmetic on shapes, which any model with an open batch has, on the
//! processor, and would refuse such a model.

use std::collections::BTreeMap;

use super::{
    accelerators::Accelerators,
    profile::{OpenDimension, Profile, Rows},
};
use crate::model::TensorSpec;

/// Options of a provider: the library's keys and values, sorted, so that equal options give equal text.
pub type Options = BTreeMap<String, String>;

/// What really executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Provider {
    /// The processor.
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT, and CUDA for what it leaves.
    TensorRt,
}

impl Provider {
    /// The word in settings, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "Cpu",
            Self::Cuda => "Cuda",
            Self::TensorRt => "TensorRt",
        }
    }
}

/// One provider to register with the library, which asks them in this order what they can execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// TensorRT with these options.
    TensorRt(Options),
    /// CUDA with these options.
    Cuda(Options),
}

/// A session to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What executes, as logs and metrics name it.
    pub provider: Provider,
    /// What is registered before the processor, which always comes last.
    pub registrations: Vec<Registration>,
    /// Threads that share one execution on the processor.
    pub threads: usize,
}

/// Folders for what TensorRT builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineFolder<'a>(pub &'a str);

impl Plan {
    /// The processor alone.
    pub fn cpu(threads: usize) -> Self {
        Self { provider: Provider::Cpu, registrations: Vec::new(), threads: threads.max(1) }
    }

    /// CUDA.
    pub fn cuda(accelerators: &Accelerators) -> Self {
        Self { provider: Provider::Cuda, registrations: vec![cuda(accelerators)], threads: 1 }
    }

    /// TensorRT without a model, to see whether it can be had.
    pub fn tensor_rt_probe() -> Self {
        let registrations = vec![Registration::TensorRt(Options::new()), cuda(&Accelerators::default())];
        Self { provider: Provider::TensorRt, registrations, threads: 1 }
    }

    /// TensorRT for batches of these sizes, with what it builds kept in `folder` where there is one.
    ///
    /// # Errors
    /// When an input has an open dimension besides the batch and no range was given for it.
    pub fn tensor_rt(
        accelerators: &Accelerators,
        inputs: &[TensorSpec],
        rows: Rows,
        folder: Option<EngineFolder<'_>>,
    ) -> Result<Self, OpenDimension> {
        let mut options = tensor_rt_options(accelerators, inputs, rows)?;
        if let Some(EngineFolder(folder)) = folder {
            for (key, value) in [
                ("trt_engine_cache_enable", "1"),
                ("trt_engine_cache_path", folder),
                ("trt_timing_cache_enable", "1"),
                ("trt_timing_cache_path", folder),
            ] {
                options.insert(key.to_owned(), value.to_owned());
            }
        }
        let registrations = vec![Registration::TensorRt(options), cuda(accelerators)];
        Ok(Self { provider: Provider::TensorRt, registrations, threads: 1 })
    }
}

/// TensorRT's options without the folders, which say nothing of what an engine is.
///
/// # Errors
/// As [`Plan::tensor_rt`].
pub fn tensor_rt_options(
    accelerators: &Accelerators,
    inputs: &[TensorSpec],
    rows: Rows,
) -> Result<Options, OpenDimension> {
    let mut options: Options = [
        ("device_id", "0"),
        ("trt_fp16_enable", "1"),
        // Half precision overflows in the sum of squares of a layer norm, which every transformer has.
        ("trt_layer_norm_fp32_fallback", "1"),
        ("trt_builder_optimization_level", "3"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    options.extend(accelerators.tensor_rt.clone());
    // Without ranges the provider builds again, for minutes, whenever a batch is smaller or larger than all before it.
    if !options.contains_key("trt_profile_min_shapes")
        && let Some(Profile { min, opt, max }) = Profile::of(inputs, rows)?
    {
        options.insert("trt_profile_min_shapes".to_owned(), min);
        options.insert("trt_profile_opt_shapes".to_owned(), opt);
        options.insert("trt_profile_max_shapes".to_owned(), max);
    }
    Ok(options)
}

fn cuda(accelerators: &Accelerators) -> Registration {
    let mut options: Options = [
        ("device_id", "0"),
        // The exhaustive search runs again for each new size of a batch, in the middle of traffic.
        ("cudnn_conv_algo_search", "HEURISTIC"),
        // The arena never shrinks; growing by powers of two would take twice what the largest batch needs.
        ("arena_extend_strategy", "kSameAsRequested"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    options.extend(accelerators.cuda.clone());
    Registration::Cuda(options)
}

/// The processor's share of each of `instances` sessions, of the cores that this container has.
pub fn threads_each(cores: usize, instances: usize) -> usize {
    (cores / instances.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn image() -> TensorSpec {
        TensorSpec {
            name: "pixel_values".to_owned(),
            data_type: DataType::Fp32,
            dims: vec![None, Some(3), Some(224), Some(224)],
        }
    }

    fn text(options: &Options) -> String {
        options.iter().flat_map(|(key, value)| [key, "=", value, "\n"]).collect()
    }

    #[test]
    fn cores_are_split_between_instances() {
        for (cores, instances, expected) in [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1), (1, 1, 1), (4, 0, 4)] {
            assert_eq!(threads_each(cores, instances), expected, "{cores} cores, {instances} instances");
        }
    }

    #[test]
    fn the_processor_registers_nothing() {
        assert_eq!(Plan::cpu(0), Plan { provider: Provider::Cpu, registrations: Vec::new(), threads: 1 });
    }

    #[test]
    fn cuda_in_the_library_s_words() {
        let mut accelerators = Accelerators::default();
        accelerators.cuda.insert("gpu_mem_limit".to_owned(), "1024".to_owned());
        let plan = Plan::cuda(&accelerators);
        let [Registration::Cuda(options)] = plan.registrations.as_slice() else { panic!("{plan:?}") };
        assert_eq!(
            text(options),
            "arena_extend_strategy=kSameAsRequested\ncudnn_conv_algo_search=HEURISTIC\ndevice_id=0\ngpu_mem_limit=1024\n"
        );
    }

    #[test]
    fn tensor_rt_in_the_library_s_words_with_cuda_behind_it() {
        let rows = Rows { min: 1, opt: 16, max: 32 };
        let plan = Plan::tensor_rt(&Accelerators::default(), &[image()], rows, Some(EngineFolder("/cache/engines/k")))
            .unwrap();
        let [Registration::TensorRt(options), Registration::Cuda(_)] = plan.registrations.as_slice() else {
            panic!("{plan:?}")
        };
        assert_eq!(
            text(options),
            "device_id=0\ntrt_builder_optimization_level=3\ntrt_engine_cache_enable=1\n\
             trt_engine_cache_path=/cache/engines/k\ntrt_fp16_enable=1\ntrt_layer_norm_fp32_fallback=1\n\
             trt_profile_max_shapes=pixel_values:32x3x224x224\ntrt_profile_min_shapes=pixel_values:1x3x224x224\n\
             trt_profile_opt_shapes=pixel_values:16x3x224x224\ntrt_timing_cache_enable=1\n\
             trt_timing_cache_path=/cache/engines/k\n"
        );
    }

    #[test]
    fn what_the_model_s_configuration_says_goes_before_our_choice() {
        let mut accelerators = Accelerators::default();
        accelerators.tensor_rt.insert("trt_fp16_enable".to_owned(), "0".to_owned());
        for side in ["min", "opt", "max"] {
            accelerators.tensor_rt.insert(format!("trt_profile_{side}_shapes"), "pixel_values:4x3x224x224".to_owned());
        }
        let options = tensor_rt_options(&accelerators, &[image()], Rows { min: 1, opt: 8, max: 8 }).unwrap();
        assert_eq!(options["trt_fp16_enable"], "0");
        assert_eq!(options["trt_profile_max_shapes"], "pixel_values:4x3x224x224");
        assert!(!options.contains_key("trt_engine_cache_path"));
    }
}
