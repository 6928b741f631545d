//! The command line and the environment; nothing else in the server reads either.
//!
//! Each setting has a flag, and the environment variable `FLOTILLA_` with the flag's name in capitals; the flag goes first.
//! What OpenTelemetry has variables for is heard from those too, after ours; the exporter itself reads its headers, its timeout
//! and its compression from them.

use std::{env, path::PathBuf};

use clap::{Args, Parser};

use crate::{
    log,
    settings::{
        ControlMode, ExecutionProvider, Settings, SettingsError,
        layer::{Batching, Layer},
        telemetry::Ratio,
    },
};

/// Serves models over `KServe` v2.
#[derive(Debug, Parser)]
#[command(name = "flotilla-server", version)]
pub struct Arguments {
    /// The settings file (JSON); needed where there is no --model-repository.
    #[arg(long, env = "FLOTILLA_SETTINGS")]
    pub settings: Option<PathBuf>,
    /// What goes before the settings file.
    #[command(flatten)]
    pub server: ServerArguments,
    /// What goes before the settings file for every model.
    #[command(flatten)]
    pub models: ModelArguments,
    /// What is told of requests.
    #[command(flatten)]
    pub telemetry: TelemetryArguments,
    /// ONNX Runtime's library, an absolute path; needed for an ONNX model.
    #[arg(long, env = "FLOTILLA_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// The form of the log on standard error.
    #[arg(long, env = "FLOTILLA_LOG_FORMAT", default_value = "json", value_parser = ["json", "text"])]
    pub log_format: String,
    /// What is logged, as a tracing filter.
    #[arg(long, env = "FLOTILLA_LOG_LEVEL", default_value = "info,ort=warn")]
    pub log_level: String,
    /// Where the reason of a failed start goes.
    #[arg(long, env = "FLOTILLA_TERMINATION_LOG", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
}

/// Settings of the server.
#[derive(Debug, Default, Args)]
pub struct ServerArguments {
    /// A folder of models in Triton's layout: NAME/VERSION/model.onnx, and NAME/config.pbtxt where there is one.
    #[arg(long, env = "FLOTILLA_MODEL_REPOSITORY", visible_alias = "model-store")]
    pub model_repository: Option<PathBuf>,
    /// Whether clients may load and unload models.
    #[arg(long, env = "FLOTILLA_MODEL_CONTROL_MODE", ignore_case = true)]
    pub model_control_mode: Option<ControlMode>,
    /// A model to load at the start under explicit control, or * for all; may be given more than once.
    #[arg(long = "load-model", env = "FLOTILLA_LOAD_MODEL", value_delimiter = ',')]
    pub load_models: Vec<String>,
    /// The HTTP port.
    #[arg(long, env = "FLOTILLA_HTTP_PORT")]
    pub http_port: Option<u16>,
    /// The gRPC port.
    #[arg(long, env = "FLOTILLA_GRPC_PORT")]
    pub grpc_port: Option<u16>,
    /// The port of the metrics page.
    #[arg(long, env = "FLOTILLA_METRICS_PORT")]
    pub metrics_port: Option<u16>,
}

/// Settings of every model.
#[derive(Debug, Default, Args)]
pub struct ModelArguments {
    /// What executes models.
    #[arg(long, env = "FLOTILLA_EXECUTION_PROVIDER", ignore_case = true)]
    pub execution_provider: Option<ExecutionProvider>,
    /// How many batches of a model execute at the same time.
    #[arg(long, env = "FLOTILLA_INSTANCES")]
    pub instances: Option<usize>,
    /// The most images in one execution.
    #[arg(long, env = "FLOTILLA_MAX_BATCH_SIZE")]
    pub max_batch_size: Option<usize>,
    /// How long an idle device waits for more.
    #[arg(long, env = "FLOTILLA_MAX_QUEUE_DELAY_MICROSECONDS")]
    pub max_queue_delay_microseconds: Option<u64>,
    /// The most requests that may wait for a model.
    #[arg(long, env = "FLOTILLA_MAX_QUEUE_SIZE")]
    pub max_queue_size: Option<usize>,
}

/// Settings of the access log and of traces.
#[derive(Debug, Default, Args)]
pub struct TelemetryArguments {
    /// Whether a line is logged for every request that has ended.
    #[arg(long, env = "FLOTILLA_ACCESS_LOG", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub access_log: Option<bool>,
    /// The share, from 0 to 1, of requests that neither failed nor were slow in the access log.
    #[arg(long, env = "FLOTILLA_ACCESS_LOG_FRACTION")]
    pub access_log_fraction: Option<Ratio>,
    /// How long a request takes that is always in the access log.
    #[arg(long, env = "FLOTILLA_ACCESS_LOG_SLOW_MILLISECONDS")]
    pub access_log_slow_milliseconds: Option<u64>,
    /// A collector's address for OTLP over HTTP, as http://collector:4318; without one nothing is traced.
    #[arg(long, env = "FLOTILLA_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// The share, from 0 to 1, of the traces that begin here.
    #[arg(long, env = "FLOTILLA_TRACE_SAMPLING_RATIO")]
    pub trace_sampling_ratio: Option<Ratio>,
}

impl Arguments {
    /// Begins to log; called once. The last lines are written when the guard is dropped.
    pub fn start_log(&self) -> log::Guard {
        log::start(&self.log_format, &self.log_level)
    }

    /// The settings: what the command line and the environment say, over what the file says.
    ///
    /// # Errors
    /// When the file can't be read, or the whole can't work.
    pub fn to_settings(&self) -> Result<Settings, SettingsError> {
        let mut settings = self.settings.as_deref().map_or_else(|| Ok(Settings::default()), Settings::load)?;
        let server = &self.server;
        if let Some(folder) = &server.model_repository {
            settings.model_repository = Some(folder.clone());
        }
        if let Some(mode) = server.model_control_mode {
            settings.model_control_mode = mode;
        }
        if !server.load_models.is_empty() {
            settings.load_models.clone_from(&server.load_models);
        }
        for (port, given) in [
            (&mut settings.http.port, server.http_port),
            (&mut settings.grpc.port, server.grpc_port),
            (&mut settings.metrics.port, server.metrics_port),
        ] {
            *port = given.unwrap_or(*port);
        }
        self.telemetry.lay_over(&mut settings)?;
        settings.overrides = self.models.layer();
        settings.check()?;
        Ok(settings)
    }
}

impl TelemetryArguments {
    fn lay_over(&self, settings: &mut Settings) -> Result<(), SettingsError> {
        let log = &mut settings.access_log;
        log.enabled = self.access_log.unwrap_or(log.enabled);
        log.fraction = self.access_log_fraction.unwrap_or(log.fraction);
        log.slow_milliseconds = self.access_log_slow_milliseconds.or(log.slow_milliseconds);
        let tracing = &mut settings.tracing;
        tracing.hear(|name| env::var(name).ok())?;
        if let Some(endpoint) = &self.otlp_endpoint {
            // An empty one is how the file's is taken back.
            tracing.endpoint = Some(endpoint.clone()).filter(|endpoint| !endpoint.is_empty());
        }
        tracing.sampling_ratio = self.trace_sampling_ratio.unwrap_or(tracing.sampling_ratio);
        Ok(())
    }
}

impl ModelArguments {
    fn layer(&self) -> Layer {
        Layer {
            preprocessing: None,
            execution_provider: self.execution_provider,
            instances: self.instances,
            batching: Batching {
                max_batch_size: self.max_batch_size,
                max_queue_delay_microseconds: self.max_queue_delay_microseconds,
                max_queue_size: self.max_queue_size,
                ..Batching::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = [&["flotilla-server"], arguments].concat();
        Arguments::try_parse_from(arguments)
            .map_err(|error| error.to_string())?
            .to_settings()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_has_the_environment_variable_of_its_name() {
        for argument in Arguments::command().get_arguments() {
            let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) else {
                panic!("{argument} has no flag or no variable")
            };
            assert_eq!(variable.to_str(), Some(format!("FLOTILLA_{}", flag.replace('-', "_").to_uppercase()).as_str()));
        }
    }

    #[test]
    fn a_repository_needs_no_file() {
        let settings = settings(&[
            "--model-repository=/models",
            "--model-control-mode=explicit",
            "--load-model=a",
            "--load-model=b,c",
            "--http-port=1",
            "--max-batch-size=4",
            "--execution-provider=tensorrt",
        ])
        .unwrap();
        assert_eq!(settings.model_repository, Some(PathBuf::from("/models")));
        assert_eq!(settings.model_control_mode, ControlMode::Explicit);
        assert_eq!(settings.load_models, ["a", "b", "c"]);
        assert_eq!((settings.http.port, settings.grpc.port, settings.metrics.port), (1, 8001, 8002));
        let model = settings.for_model("a");
        assert_eq!(model.batching.max_batch_size, Some(4));
        assert_eq!(model.execution_provider, Some(ExecutionProvider::TensorRt));
    }

    #[test]
    fn flags_go_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            r#"{"version":1,"modelRepository":"/file","http":{"port":10},"metrics":{"port":12},
                "batching":{"maxBatchSize":16,"maxQueueSize":7},"models":{"own":{"batching":{"maxBatchSize":8}}}}"#,
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let settings = settings(&["--settings", path, "--max-batch-size=2", "--http-port=20"]).unwrap();
        assert_eq!((settings.http.port, settings.metrics.port), (20, 12));
        assert_eq!(settings.model_repository, Some(PathBuf::from("/file")));
        for name in ["own", "other"] {
            let model = settings.for_model(name).resolve().unwrap();
            assert_eq!((model.max_batch_size, model.max_queue_size), (2, 7), "{name}");
        }
    }

    #[test]
    fn what_is_told_of_requests_is_off_until_it_is_asked_for() {
        let told = settings(&["--model-repository=/m"]).unwrap();
        assert!(!told.access_log.enabled);
        assert_eq!(told.tracing.url(), None);
        let told = settings(&[
            "--model-repository=/m",
            "--access-log",
            "--access-log-fraction=0.25",
            "--access-log-slow-milliseconds=5",
            "--otlp-endpoint=http://collector:4318",
            "--trace-sampling-ratio=0.5",
        ])
        .unwrap();
        assert!(told.access_log.enabled);
        assert_eq!((told.access_log.fraction, told.access_log.slow_milliseconds), ("0.25".parse().unwrap(), Some(5)));
        assert_eq!(told.tracing.url().as_deref(), Some("http://collector:4318/v1/traces"));
        assert_eq!(told.tracing.sampling_ratio, "0.5".parse().unwrap());
    }

    #[test]
    fn a_flag_takes_back_what_the_file_asks_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            r#"{"version":1,"modelRepository":"/file","accessLog":{"enabled":true,"fraction":0.5},
                "tracing":{"endpoint":"http://file:4318"}}"#,
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let asked = settings(&["--settings", path]).unwrap();
        assert!(asked.access_log.enabled && asked.tracing.endpoint.is_some());
        let taken_back = settings(&["--settings", path, "--access-log=false", "--otlp-endpoint="]).unwrap();
        assert!(!taken_back.access_log.enabled && taken_back.tracing.endpoint.is_none());
        assert_eq!(taken_back.access_log.fraction, "0.5".parse().unwrap());
    }

    #[test]
    fn what_can_not_work_is_said_by_the_field_s_name() {
        for (arguments, part) in [
            (&[][..], "model or modelRepository must be set, and neither is"),
            (&["--model-repository=/m", "--http-port=8002"], "metrics.port must differ from http.port (8002)"),
            (&["--model-repository=/m", "--max-batch-size=0"], "batching.maxBatchSize must be 1 to 1024, not 0"),
            (&["--model-repository=/m", "--load-model=a"], "loadModels is for modelControlMode Explicit"),
            (&["--model-repository=/m", "--trace-sampling-ratio=2"], "must be 0 to 1, not 2"),
            (&["--model-repository=/m", "--access-log-fraction=x"], "must be a number from 0 to 1"),
            (&["--model-repository=/m", "--otlp-endpoint=c:4317"], "tracing.endpoint must be the http:// or https://"),
            (&["--settings=/no/such/file"], "the settings file /no/such/file can't be read"),
            (&["--model-repository=/m", "--http-port=x"], "invalid value 'x'"),
        ] {
            let error = settings(arguments).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
