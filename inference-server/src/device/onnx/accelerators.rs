//! `execution_accelerators` of a model's `config.pbtxt`, as options of the providers. Pure.
//!
//! Only keys that are known to this table are passed on: the library ends the start at an unknown one with words that do not
//! say where it came from, and some keys load code or name folders, which is not a model's to decide.

use super::plan::Options;

/// Options that a model's configuration gives besides our own choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accelerators {
    /// For TensorRT.
    pub tensor_rt: Options,
    /// For CUDA.
    pub cuda: Options,
    /// Keys about where TensorRT keeps what it builds. Models made for Triton have them; here that is the server's cache.
    pub set_aside: Vec<String>,
}

/// What of the configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceleratorError {
    /// A name that no provider here has.
    #[error("execution accelerator '{0}' is not supported: there are 'tensorrt' and 'cuda'")]
    Unknown(String),
    /// A key that the provider does not know.
    #[error("parameter '{key}' of the execution accelerator '{accelerator}' is not supported")]
    UnknownKey {
        /// The accelerator.
        accelerator: &'static str,
        /// The key.
        key: String,
    },
    /// A key that the server sets itself.
    #[error("parameter '{key}' of the execution accelerator '{accelerator}' is the server's: {instead}")]
    Reserved {
        /// The accelerator.
        accelerator: &'static str,
        /// The key.
        key: String,
        /// What to set instead.
        instead: &'static str,
    },
    /// A value that can't be.
    #[error("parameter '{key}' of the execution accelerator '{accelerator}' can't be '{value}': {expected}")]
    BadValue {
        /// The accelerator.
        accelerator: &'static str,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What can be.
        expected: &'static str,
    },
}

const TENSOR_RT: &str = "tensorrt";
const CUDA: &str = "cuda";

/// TensorRT's keys with a number or a switch as value.
pub const TENSOR_RT_NUMBERS: [&str; 20] = [
    "trt_auxiliary_streams",
    "trt_bf16_enable",
    "trt_build_heuristics_enable",
    "trt_builder_optimization_level",
    "trt_context_memory_sharing_enable",
    "trt_detailed_build_log",
    "trt_dla_core",
    "trt_dla_enable",
    "trt_engine_hw_compatible",
    "trt_force_sequential_engine_build",
    "trt_force_timing_cache",
    "trt_fp16_enable",
    "trt_int8_enable",
    "trt_int8_use_native_calibration_table",
    "trt_layer_norm_fp32_fallback",
    "trt_max_partition_iterations",
    "trt_max_workspace_size",
    "trt_min_subgraph_size",
    "trt_sparsity_enable",
    "trt_weight_stripped_engine_enable",
];

/// TensorRT's keys with a text as value.
pub const TENSOR_RT_TEXTS: [&str; 6] = [
    "trt_int8_calibration_table_name",
    "trt_op_types_to_exclude",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_tactic_sources",
];

/// CUDA's keys.
pub const CUDA_KEYS: [&str; 15] = [
    "arena_extend_strategy",
    "cudnn_conv1d_pad_to_nc1d",
    "cudnn_conv_algo_search",
    "cudnn_conv_use_max_workspace",
    "do_copy_in_default_stream",
    "enable_skip_layer_norm_strict_mode",
    "fuse_conv_bias",
    "gpu_mem_limit",
    "prefer_nhwc",
    "sdpa_kernel",
    "tunable_op_enable",
    "tunable_op_max_tuning_duration_ms",
    "tunable_op_tuning_enable",
    "use_ep_level_unified_stream",
    "use_tf32",
];

/// What a model asks for in vain and without harm: with `cache.path` the engines are kept, and without it nowhere.
const SET_ASIDE: [&str; 5] = [
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
];

/// Keys that are refused, with what to set instead.
const RESERVED: [(&str, &str); 8] = [
    ("device_id", "the replica's GPU is the first that the container sees"),
    ("enable_cuda_graph", "the memory of a batch moves, which a recorded graph can't follow"),
    ("trt_cuda_graph_enable", "the memory of a batch moves, which a recorded graph can't follow"),
    ("trt_dump_ep_context_model", "set cache.path"),
    ("trt_ep_context_file_path", "set cache.path"),
    ("trt_extra_plugin_lib_paths", "a model may not name code to load"),
    ("trt_engine_decryption_lib_path", "a model may not name code to load"),
    ("trt_engine_decryption_enable", "a model may not name code to load"),
];

impl Accelerators {
    /// Adds one accelerator with its parameters, as `gpu_execution_accelerator` lists them.
    ///
    /// # Errors
    /// Names the first thing that can't be used.
    pub fn add<'a>(
        &mut self,
        name: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), AcceleratorError> {
        match name {
            TENSOR_RT => parameters.into_iter().try_for_each(|(key, value)| {
                if SET_ASIDE.contains(&key) {
                    self.set_aside.push(key.to_owned());
                    return Ok(());
                }
                tensor_rt(&mut self.tensor_rt, key, value)
            }),
            CUDA => parameters.into_iter().try_for_each(|(key, value)| cuda(&mut self.cuda, key, value)),
            other => Err(AcceleratorError::Unknown(other.to_owned())),
        }
    }

    /// Adds a model's own `parameters` of the times before accelerators had any; other keys are not for a provider.
    ///
    /// # Errors
    /// When the value can't be.
    pub fn add_parameter(&mut self, key: &str, value: &str) -> Result<bool, AcceleratorError> {
        let value = match (key, value) {
            ("cudnn_conv_algo_search", "0") => "EXHAUSTIVE",
            ("cudnn_conv_algo_search", "1") => "HEURISTIC",
            ("cudnn_conv_algo_search", "2") => "DEFAULT",
            ("arena_extend_strategy", "0") => "kNextPowerOfTwo",
            ("arena_extend_strategy", "1") => "kSameAsRequested",
            ("cudnn_conv_algo_search" | "arena_extend_strategy" | "gpu_mem_limit" | "do_copy_in_default_stream", _) => {
                value
            }
            _ => return Ok(false),
        };
        cuda(&mut self.cuda, key, value).map(|()| true)
    }
}

fn tensor_rt(options: &mut Options, key: &str, value: &str) -> Result<(), AcceleratorError> {
    let mut set = |key: &str, value: &str| drop(options.insert(key.to_owned(), value.to_owned()));
    match key {
        "precision_mode" => {
            let (half, brain) = match value {
                "FP32" => ("0", "0"),
                "FP16" => ("1", "0"),
                "BF16" => ("0", "1"),
                _ => return bad(TENSOR_RT, key, value, "FP32, FP16 or BF16; INT8 takes trt_int8_enable and a table"),
            };
            set("trt_fp16_enable", half);
            set("trt_bf16_enable", brain);
        }
        "max_workspace_size_bytes" => set("trt_max_workspace_size", number(TENSOR_RT, key, value)?),
        "int8_calibration_table_name" => set("trt_int8_calibration_table_name", text(TENSOR_RT, key, value)?),
        "int8_use_native_calibration_table" => {
            set("trt_int8_use_native_calibration_table", number(TENSOR_RT, key, value)?);
        }
        _ if TENSOR_RT_NUMBERS.contains(&key) => set(key, number(TENSOR_RT, key, value)?),
        _ if TENSOR_RT_TEXTS.contains(&key) => set(key, text(TENSOR_RT, key, value)?),
        _ => return refuse(TENSOR_RT, key),
    }
    Ok(())
}

fn cuda(options: &mut Options, key: &str, value: &str) -> Result<(), AcceleratorError> {
    let value = match key {
        "cudnn_conv_algo_search" if !["EXHAUSTIVE", "HEURISTIC", "DEFAULT"].contains(&value) => {
            return bad(CUDA, key, value, "EXHAUSTIVE, HEURISTIC or DEFAULT");
        }
        "arena_extend_strategy" if !["kNextPowerOfTwo", "kSameAsRequested"].contains(&value) => {
            return bad(CUDA, key, value, "kNextPowerOfTwo or kSameAsRequested");
        }
        "cudnn_conv_algo_search" | "arena_extend_strategy" => value,
        _ if CUDA_KEYS.contains(&key) => number(CUDA, key, value)?,
        _ => return refuse(CUDA, key),
    };
    options.insert(key.to_owned(), value.to_owned());
    Ok(())
}

fn refuse<T>(accelerator: &'static str, key: &str) -> Result<T, AcceleratorError> {
    let key_text = key.to_owned();
    Err(match RESERVED.iter().find(|(reserved, _)| *reserved == key) {
        Some((_, instead)) => AcceleratorError::Reserved { accelerator, key: key_text, instead },
        None => AcceleratorError::UnknownKey { accelerator, key: key_text },
    })
}

fn bad<T>(accelerator: &'static str, key: &str, value: &str, expected: &'static str) -> Result<T, AcceleratorError> {
    Err(AcceleratorError::BadValue { accelerator, key: key.to_owned(), value: value.to_owned(), expected })
}

/// A whole number; `true` and `false` are what Triton's users write for switches.
fn number<'a>(accelerator: &'static str, key: &str, value: &'a str) -> Result<&'a str, AcceleratorError> {
    match value {
        "true" => Ok("1"),
        "false" => Ok("0"),
        _ if value.parse::<i64>().is_ok() => Ok(value),
        _ => bad(accelerator, key, value, "a whole number, true or false"),
    }
}

/// Text that the library's C interface can take.
fn text<'a>(accelerator: &'static str, key: &str, value: &'a str) -> Result<&'a str, AcceleratorError> {
    if value.is_empty() || value.contains('\0') {
        return bad(accelerator, key, value, "a text without a zero byte");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(name: &str, parameters: &[(&str, &str)]) -> Result<Accelerators, AcceleratorError> {
        let mut accelerators = Accelerators::default();
        accelerators.add(name, parameters.iter().copied()).map(|()| accelerators)
    }

    #[test]
    fn triton_s_own_names_become_the_library_s() {
        let parameters = [
            ("precision_mode", "FP32"),
            ("max_workspace_size_bytes", "1073741824"),
            ("int8_calibration_table_name", "table"),
            ("int8_use_native_calibration_table", "false"),
            ("trt_sparsity_enable", "true"),
        ];
        let options: Vec<_> = added("tensorrt", &parameters).unwrap().tensor_rt.into_iter().collect();
        let expected = [
            ("trt_bf16_enable", "0"),
            ("trt_fp16_enable", "0"),
            ("trt_int8_calibration_table_name", "table"),
            ("trt_int8_use_native_calibration_table", "0"),
            ("trt_max_workspace_size", "1073741824"),
            ("trt_sparsity_enable", "1"),
        ];
        assert_eq!(options, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let mut accelerators = Accelerators::default();
        assert_eq!(accelerators.add_parameter("cudnn_conv_algo_search", "0"), Ok(true));
        assert_eq!(accelerators.add_parameter("intra_op_thread_count", "4"), Ok(false));
        assert_eq!(accelerators.cuda["cudnn_conv_algo_search"], "EXHAUSTIVE");
    }

    /// A model with these would be loaded by Triton, and answers the same with the engines kept elsewhere.
    #[test]
    fn where_engines_are_kept_is_set_aside() {
        let parameters =
            [("trt_engine_cache_enable", "true"), ("trt_engine_cache_path", "/tmp"), ("trt_timing_cache_enable", "1")];
        let accelerators = added("tensorrt", &parameters).unwrap();
        assert_eq!(accelerators.set_aside, parameters.map(|(key, _)| key));
        assert_eq!(accelerators.tensor_rt, Options::new());
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        for (name, key, value, part) in [
            ("openvino", "", "", "'openvino' is not supported"),
            (
                "tensorrt",
                "trt_surprise",
                "1",
                "'trt_surprise' of the execution accelerator 'tensorrt' is not supported",
            ),
            ("tensorrt", "trt_ep_context_file_path", "/tmp", "set cache.path"),
            ("tensorrt", "trt_extra_plugin_lib_paths", "/tmp/x.so", "may not name code"),
            ("tensorrt", "precision_mode", "INT8", "FP32, FP16 or BF16"),
            ("tensorrt", "trt_fp16_enable", "yes", "a whole number"),
            ("tensorrt", "trt_profile_min_shapes", "a\0b", "zero byte"),
            ("cuda", "cudnn_conv_algo_search", "0", "EXHAUSTIVE, HEURISTIC or DEFAULT"),
            ("cuda", "device_id", "3", "the first that the container sees"),
            ("cuda", "gpu_mem_limit", "2 GB", "a whole number"),
        ] {
            let error = added(name, &[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
