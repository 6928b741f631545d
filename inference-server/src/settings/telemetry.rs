//! What the server tells of each request: its access log, and its traces. Both are off unless they are asked for.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use super::{SettingsError, between, require};

/// The path of traces below a collector's address, by OTLP's specification.
const TRACES_PATH: &str = "/v1/traces";
/// The one protocol of OTLP that is spoken.
const PROTOCOL: &str = "http/protobuf";
/// The one sampler that there is.
const SAMPLER: &str = "parentbased_traceidratio";

/// The access log: one line on standard error for a request that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    /// Whether there is one.
    pub enabled: bool,
    /// The share of requests, of those that neither failed nor were slow.
    pub fraction: Ratio,
    /// Requests that took this long are always logged; none: no request is slow.
    pub slow_milliseconds: Option<u64>,
}

/// Traces, exported by OTLP over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// A collector's address, to which the path of traces is added where it has none; none: no request is traced.
    pub endpoint: Option<String>,
    /// The share of traces that begin here and are exported; of others their beginning decides.
    pub sampling_ratio: Ratio,
}

/// A number from 0 to 1; 1 where nobody says.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Ratio(f64);

/// It is never "not a number".
impl Eq for Ratio {}

impl Ratio {
    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self(1.0)
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(format!("must be 0 to 1, not {value}")) }
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim().parse::<f64>().map_err(|_| format!("must be a number from 0 to 1, not {text:?}"))?.try_into()
    }
}

impl AccessLog {
    /// Checks what the types can't say.
    ///
    /// # Errors
    /// Names the field that can't work.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        self.slow_milliseconds.map_or(Ok(()), |slow| between(slow, 0, 3_600_000, "accessLog.slowMilliseconds"))
    }
}

impl Tracing {
    /// Checks what the types can't say.
    ///
    /// # Errors
    /// Names the field that can't work.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        let url = url::Url::parse(endpoint).ok();
        let is_good = url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        require(is_good, "tracing.endpoint", || {
            format!(
                "must be the http:// or https:// address of a collector's OTLP over HTTP (port 4318), not {endpoint:?}"
            )
        })
    }

    /// Where traces are sent; none where there are none.
    pub fn url(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref()?;
        let has_path = url::Url::parse(endpoint).is_ok_and(|url| !url.path().trim_matches('/').is_empty());
        Some(if has_path { endpoint.to_owned() } else { below(endpoint) })
    }

    /// Lays OpenTelemetry's own variables over the file: `variable` gives one's value. Empty ones are as if they were not set.
    ///
    /// # Errors
    /// When one asks for what this server does not have.
    pub fn hear(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), SettingsError> {
        let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
        let traces = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let all = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        if let Some(endpoint) = traces.or_else(|| all.map(|base| below(&base))) {
            self.endpoint = Some(endpoint);
        }
        let is_on = |name, value: &str| variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value));
        if is_on("OTEL_SDK_DISABLED", "true") || is_on("OTEL_TRACES_EXPORTER", "none") {
            self.endpoint = None;
        }
        if let Some(ratio) = variable("OTEL_TRACES_SAMPLER_ARG") {
            self.sampling_ratio = ratio
                .parse()
                .map_err(|problem| SettingsError::Invalid { field: "OTEL_TRACES_SAMPLER_ARG", problem })?;
        }
        if self.endpoint.is_none() {
            return Ok(());
        }
        for (field, known) in [
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", PROTOCOL),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL),
            ("OTEL_TRACES_SAMPLER", SAMPLER),
        ] {
            let other = variable(field).filter(|value| value != known);
            require(other.is_none(), field, || {
                format!(
                    "must be {known}, the only one that this server has, not {}",
                    other.as_deref().unwrap_or_default()
                )
            })?;
        }
        Ok(())
    }
}

fn below(base: &str) -> String {
    format!("{}{TRACES_PATH}", base.trim().trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(file: &str, variables: &[(&str, &str)]) -> Result<(Option<String>, f64), String> {
        let mut tracing: Tracing = serde_json::from_str(file).unwrap();
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        tracing.hear(find).and_then(|()| tracing.check()).map_err(|error| error.to_string())?;
        Ok((tracing.url(), tracing.sampling_ratio.value()))
    }

    #[test]
    fn opentelemetry_s_variables_are_heard() {
        let file = r#"{"endpoint":"http://file:4318","samplingRatio":0.5}"#;
        let endpoint = |text: &str| Some(text.to_owned());
        for (file, variables, expected) in [
            ("{}", &[][..], (None, 1.0)),
            (file, &[], (endpoint("http://file:4318/v1/traces"), 0.5)),
            ("{}", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], (endpoint("http://c:4318/v1/traces"), 1.0)),
            (
                "{}",
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/otlp/")],
                (endpoint("http://c:4318/otlp/v1/traces"), 1.0),
            ),
            (
                file,
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x")],
                (endpoint("https://t/x"), 0.5),
            ),
            (file, &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], (endpoint("http://file:4318/v1/traces"), 0.5)),
            (file, &[("OTEL_SDK_DISABLED", "TRUE")], (None, 0.5)),
            (file, &[("OTEL_TRACES_EXPORTER", "none")], (None, 0.5)),
            (
                file,
                &[
                    ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                    ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ],
                (endpoint("http://file:4318/v1/traces"), 0.25),
            ),
            // Whoever exports nothing may have any protocol in the environment.
            ("{}", &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], (None, 1.0)),
        ] {
            assert_eq!(heard(file, variables), Ok(expected), "{file} {variables:?}");
        }
    }

    #[test]
    fn what_can_not_work_is_refused_with_the_variable_s_name() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (variables, part) in [
            (
                &[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")][..],
                "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf",
            ),
            (&[endpoint, ("OTEL_TRACES_SAMPLER", "always_on")], "OTEL_TRACES_SAMPLER must be parentbased_traceidratio"),
            (&[("OTEL_TRACES_SAMPLER_ARG", "2")], "OTEL_TRACES_SAMPLER_ARG must be 0 to 1, not 2"),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")],
                "tracing.endpoint must be the http:// or https:// address",
            ),
        ] {
            let error = heard("{}", variables).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    #[test]
    fn a_ratio_is_a_share() {
        for text in ["-0.1", "1.1", "NaN", "inf", "", "x"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
        assert!(
            serde_json::from_str::<Tracing>(r#"{"samplingRatio":1.5}"#).unwrap_err().to_string().contains("0 to 1")
        );
    }
}
