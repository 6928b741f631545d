//! Reaching a cluster as kubectl does, and its operator through the API server.

use std::time::Duration;

use clap::Args;
use futures::AsyncReadExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::GetParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;

use super::CliError;
use crate::explain::{NO_DECISION, NOT_LEADING, VERSION};

/// The operator's HTTP port, as the chart has it.
const OPERATOR_PORT: u16 = 8080;
/// Longest answer of the operator: some ten thousand services in a line each.
const LONGEST_ANSWER: u64 = 16 << 20;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often another leader is looked for where the one that the Lease named does not lead any more.
const TRIES: u32 = 2;

/// Which cluster, and where its operator is.
#[derive(Clone, Debug, Args)]
pub(super) struct ClusterArguments {
    /// The namespace; the context's where it is not given
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The context of the kubeconfig; its current one where it is not given
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig; else $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    /// The namespace that the operator is installed in
    #[arg(long, value_name = "NAMESPACE", env = "FLOTILLA_OPERATOR_NAMESPACE", default_value = "flotilla-system")]
    operator_namespace: String,
    /// The Lease that names the operator that leads: RELEASE-operator
    #[arg(long, value_name = "NAME", env = "FLOTILLA_OPERATOR_LEASE", default_value = "flotilla-operator")]
    operator_lease: String,
}

/// A cluster.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    operator_namespace: String,
    operator_lease: String,
}

/// Why the operator can't be asked; each says what to do.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Unreachable {
    /// There is no Lease.
    #[error(
        "there is no Lease {lease} in the namespace {namespace}: the operator is not installed there; name where it is \
         with --operator-namespace and --operator-lease"
    )]
    NoOperator {
        /// Where it was looked for.
        namespace: String,
        /// Under which name.
        lease: String,
    },
    /// Nobody holds the Lease.
    #[error("no operator leads: the Lease {lease} names none; see the operator's pods in the namespace {namespace}")]
    NobodyLeads {
        /// Where.
        namespace: String,
        /// Which.
        lease: String,
    },
    /// A right is missing.
    #[error("{message}; the Role {role} in the namespace {namespace} gives the rights that are needed")]
    Forbidden {
        /// What the API server said.
        message: String,
        /// The chart's Role.
        role: String,
        /// Where.
        namespace: String,
    },
    /// It does not know the path.
    #[error("the operator {pod} is older than this program: it does not tell why it decides")]
    TooOld {
        /// Which.
        pod: String,
    },
    /// It answers in a newer schema.
    #[error(
        "the operator {pod} is newer than this program, which knows version {VERSION} of its answers, not {version}"
    )]
    TooNew {
        /// Which.
        pod: String,
        /// What it answers in.
        version: u64,
    },
    /// It leads, and has decided nothing about the service.
    #[error("{0}")]
    NoDecision(String),
    /// Anything else.
    #[error("the operator {pod} can't be asked through the API server: {message}")]
    NoAnswer {
        /// Which.
        pod: String,
        /// Why.
        message: String,
    },
}

/// An operator's answer.
pub(super) struct Answer<T> {
    /// The pod that gave it.
    pub(super) pod: String,
    pub(super) body: T,
}

impl Cluster {
    /// Connects as kubectl does: a kubeconfig, else the service account of a pod.
    pub(super) async fn connect(arguments: &ClusterArguments) -> Result<Self, CliError> {
        let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
        let no_cluster = |error: &dyn std::error::Error| CliError::Cluster(format!("no cluster to talk to: {error}"));
        let mut config = match (&arguments.kubeconfig, &arguments.context) {
            (Some(path), _) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| no_cluster(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| no_cluster(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| no_cluster(&error))?,
            (None, None) => Config::infer().await.map_err(|error| no_cluster(&error))?,
        };
        config.read_timeout = Some(REQUEST_TIMEOUT);
        let namespace = arguments.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| no_cluster(&error))?;
        Ok(Self::new(client, namespace, arguments))
    }

    pub(super) fn new(client: Client, namespace: String, arguments: &ClusterArguments) -> Self {
        let (operator_namespace, operator_lease) =
            (arguments.operator_namespace.clone(), arguments.operator_lease.clone());
        Self { client, namespace, operator_namespace, operator_lease }
    }

    /// Asks the operator that leads: GET of a path of its HTTP server, through the API server's proxy.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Unreachable> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let pod = self.leader().await?;
            match self.get(&pod, path).await {
                // The Lease passed to another one between the two requests.
                Err(kube::Error::Api(status)) if status.reason == NOT_LEADING && tries > 0 => {}
                Err(error) => return Err(self.unreachable(pod, error)),
                Ok(body) => return parse(&body, pod),
            }
        }
    }

    /// The pod that the Lease names.
    async fn leader(&self) -> Result<String, Unreachable> {
        let (namespace, lease) = (self.operator_namespace.clone(), self.operator_lease.clone());
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &namespace);
        match leases.get_opt(&lease).await {
            Ok(None) => Err(Unreachable::NoOperator { namespace, lease }),
            Ok(Some(found)) => found
                .spec
                .and_then(|spec| spec.holder_identity)
                .filter(|holder| !holder.is_empty())
                .ok_or(Unreachable::NobodyLeads { namespace, lease }),
            Err(error) => Err(self.unreachable(format!("of the Lease {lease}"), error)),
        }
    }

    async fn get(&self, pod: &str, path: &str) -> kube::Result<Vec<u8>> {
        let proxy = format!("/api/v1/namespaces/{}/pods/{pod}:{OPERATOR_PORT}/proxy", self.operator_namespace);
        let request = Request::new(proxy).get(path, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        let read = async {
            let mut body = Vec::new();
            // One byte more than is taken, so that a longer answer is not taken for a whole one.
            let stream = self.client.request_stream(request).await?;
            let read = std::pin::pin!(stream).take(LONGEST_ANSWER + 1).read_to_end(&mut body).await;
            read.map_err(|error| kube::Error::Service(error.into()))?;
            Ok(body)
        };
        let late = || kube::Error::Service(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()).into());
        tokio::time::timeout(REQUEST_TIMEOUT, read).await.unwrap_or_else(|_| Err(late()))
    }

    fn unreachable(&self, pod: String, error: kube::Error) -> Unreachable {
        let status = match error {
            kube::Error::Api(status) => status,
            error => return Unreachable::NoAnswer { pod, message: chain(&error) },
        };
        match (status.code, status.reason.as_str()) {
            (_, NO_DECISION) => Unreachable::NoDecision(status.message.clone()),
            (403 | 401, _) => Unreachable::Forbidden {
                message: status.message.clone(),
                role: format!("{}-explain", self.operator_lease),
                namespace: self.operator_namespace.clone(),
            },
            // The API server's own 404 is a Status with a reason; a path that the operator does not have is empty.
            (404, reason) if reason != "NotFound" => Unreachable::TooOld { pod },
            _ => Unreachable::NoAnswer { pod, message: status.message.clone() },
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], pod: String) -> Result<Answer<T>, Unreachable> {
    if u64::try_from(body.len()).unwrap_or(u64::MAX) > LONGEST_ANSWER {
        return Err(Unreachable::NoAnswer {
            pod,
            message: format!("its answer is longer than {LONGEST_ANSWER} bytes"),
        });
    }
    let no_json = |error: serde_json::Error| format!("its answer is not what was asked for: {error}");
    let value: serde_json::Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => return Err(Unreachable::NoAnswer { pod, message: no_json(error) }),
    };
    match value["version"].as_u64() {
        Some(version) if version == u64::from(VERSION) => match serde_json::from_value(value) {
            Ok(body) => Ok(Answer { pod, body }),
            Err(error) => Err(Unreachable::NoAnswer { pod, message: no_json(error) }),
        },
        Some(version) => Err(Unreachable::TooNew { pod, version }),
        None => Err(Unreachable::TooOld { pod }),
    }
}

/// An error with what it comes from.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
