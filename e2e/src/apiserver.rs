//! A real API server without a cluster: kube-apiserver and etcd on loopback, and an operator as a process beside them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use flotilla::api::InferenceService;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Api, Client, Config, CustomResourceExt as _, ResourceExt as _};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::program::compiled;
use crate::{Look, Outcome, until};

const START_LIMIT: Duration = Duration::from_mins(1);
/// Verbs that the API server counts as changes.
const MUTATING: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
/// Resources that the API server writes by itself, some of them at any time; the operator has no right to any.
const ITS_OWN: [&str; 7] = [
    "apiservices",
    "customresourcedefinitions",
    "flowschemas",
    "ipaddresses",
    "priorityclasses",
    "prioritylevelconfigurations",
    "servicecidrs",
];
/// Nobody but this process and its children knows the address, and the server listens on loopback.
const TOKEN: &str = "e2e-token";

/// kube-apiserver and etcd. Dropped, they end and their files go.
pub struct ApiServer {
    /// A client with all rights.
    pub client: Client,
    folder: TempDir,
    // Ended on drop, the API server first.
    process: Child,
    etcd: Child,
}

/// An operator's process, with its metrics.
pub struct Operator {
    process: Child,
    address: String,
    http: reqwest::Client,
}

impl ApiServer {
    /// Starts both and installs the CRD.
    ///
    /// # Errors
    /// A program is missing (`kind/tools --api-server` gets them), or one does not start.
    pub async fn start() -> Outcome<Self> {
        Self::start_on(None).await
    }

    /// The same on data that etcd keeps in a folder: empty at first, and taken over by a later run.
    ///
    /// # Errors
    /// As [`ApiServer::start`].
    pub async fn start_on(data: Option<&Path>) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let (client_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let mut etcd = program("etcd")?;
        etcd.arg("--data-dir").arg(data.map_or_else(|| folder.path().join("etcd"), Path::to_owned));
        etcd.args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url]);
        etcd.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        etcd.args(["--initial-cluster", &format!("default={peer_url}"), "--unsafe-no-fsync", "--log-level", "error"]);
        let etcd = spawn(etcd, folder.path(), "etcd.log")?;

        let tokens = folder.path().join("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},e2e,e2e,system:masters\n"))?;
        let mut api_server = program("kube-apiserver")?;
        api_server.args([
            "--etcd-servers",
            &etcd_url,
            "--bind-address",
            "127.0.0.1",
            "--advertise-address",
            "127.0.0.1",
        ]);
        api_server.args(["--secure-port", &port.to_string(), "--authorization-mode", "AlwaysAllow"]);
        let certificates = folder.path().join("certificates");
        api_server.arg("--cert-dir").arg(&certificates);
        api_server.arg("--token-auth-file").arg(&tokens);
        // The pair that the server makes for itself at its start signs the accounts' tokens as well: nobody uses one here.
        api_server.arg("--service-account-key-file").arg(certificates.join("apiserver.crt"));
        api_server.arg("--service-account-signing-key-file").arg(certificates.join("apiserver.key"));
        api_server.args(["--service-account-issuer", "https://localhost"]);
        // Room for the Services of some thousand InferenceServices.
        api_server.args(["--service-cluster-ip-range", "10.96.0.0/12", "--endpoint-reconciler-type", "none"]);
        // No controller makes default accounts here, and no pod would need one.
        api_server.args(["--disable-admission-plugins", "ServiceAccount", "--v", "1"]);
        let api_server = spawn(api_server, folder.path(), "kube-apiserver.log")?;

        let file = folder.path().join("kubeconfig");
        fs::write(&file, kubeconfig(port)?)?;
        let config = Kubeconfig::read_from(&file)?;
        let client = Client::try_from(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?)?;
        let mut started = Self { client, folder, process: api_server, etcd };
        started.wait().await?;
        started.install_crd().await?;
        started.namespace("flotilla-system").await?;
        Ok(started)
    }

    async fn wait(&mut self) -> Outcome {
        let log = self.folder.path().join("kube-apiserver.log");
        let (client, process) = (self.client.clone(), &mut self.process);
        let look = async || {
            if let Some(status) = process.try_wait()? {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(8).collect();
                return Err(format!("kube-apiserver ended with {status}: {tail:#?}").into());
            }
            Ok(match page(&client, "readyz").await {
                Ok(_) => Look::Break(()),
                Err(error) => Look::Continue(error.to_string()),
            })
        };
        until("the API server is ready", START_LIMIT, look).await?;
        Ok(())
    }

    async fn install_crd(&self) -> Outcome {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let definition = InferenceService::crd();
        if definitions.get_opt(&definition.name_any()).await?.is_none() {
            definitions.create(&PostParams::default(), &definition).await?;
        }
        until("the CRD is served", START_LIMIT, async || {
            let list: kube::Result<_> =
                Api::<InferenceService>::default_namespaced(self.client.clone()).list(&ListParams::default()).await;
            Ok(match list {
                Ok(_) => Look::Break(()),
                Err(error) => Look::Continue(error.to_string()),
            })
        })
        .await?;
        Ok(())
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn namespace(&self, name: &str) -> Outcome {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        namespaces.patch(name, &PatchParams::apply("e2e"), &Patch::Apply(namespace)).await?;
        Ok(())
    }

    /// The process ids of API server and etcd.
    ///
    /// # Errors
    /// One of them has ended.
    pub fn pids(&self) -> Outcome<[u32; 2]> {
        Ok([self.process.id().ok_or("the API server has ended")?, self.etcd.id().ok_or("etcd has ended")?])
    }

    /// The API server's own metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Outcome<String> {
        page(&self.client, "metrics").await
    }

    /// Mutating requests that the API server has counted, by resource and verb; without leases and what it writes for itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn writes(&self) -> Outcome<Vec<(String, u64)>> {
        let page = self.metrics().await?;
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let label = |name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let verb = label("verb").unwrap_or_default();
            let resource = label("resource").unwrap_or_default();
            if !MUTATING.contains(&verb) || resource == "leases" || ITS_OWN.contains(&resource) {
                continue;
            }
            let count: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            let subresource = label("subresource").filter(|name| !name.is_empty());
            let what = format!("{verb} {resource}{}", subresource.map(|name| format!("/{name}")).unwrap_or_default());
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let count = count as u64;
            *counts.entry(what).or_default() += count;
        }
        Ok(counts.into_iter().collect())
    }

    /// Starts an operator.
    ///
    /// # Errors
    /// It does not compile or start.
    pub async fn operator(&self, name: &str) -> Outcome<Operator> {
        self.operator_with(name, &[]).await
    }

    /// Starts an operator with more arguments.
    ///
    /// # Errors
    /// It does not compile or start.
    pub async fn operator_with(&self, name: &str, arguments: &[&str]) -> Outcome<Operator> {
        self.operator_of(&compiled("flotilla-operator").await?, name, arguments).await
    }

    /// Starts an operator and does not wait until it leads.
    ///
    /// # Errors
    /// It does not compile or start.
    pub async fn standby(&self, name: &str) -> Outcome<Operator> {
        self.spawn_operator(&compiled("flotilla-operator").await?, name, &[])
    }

    /// Starts an operator that was compiled elsewhere, with arguments.
    ///
    /// # Errors
    /// It does not start.
    pub async fn operator_of(&self, program: &Path, name: &str, arguments: &[&str]) -> Outcome<Operator> {
        let operator = self.spawn_operator(program, name, arguments)?;
        operator.leads(START_LIMIT).await?;
        Ok(operator)
    }

    fn spawn_operator(&self, program: &Path, name: &str, arguments: &[&str]) -> Outcome<Operator> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.folder.path().join("kubeconfig")).env("POD_NAME", name);
        command.args(["--namespace", "flotilla-system", "--http-address", &format!("127.0.0.1:{port}")]);
        command.args(["--leader-elect", "true", "--log-format", "text"]).args(arguments);
        let process = spawn(command, self.folder.path(), &format!("{name}.log"))?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(Operator { process, address: format!("http://127.0.0.1:{port}"), http })
    }

    /// The kubeconfig that reaches it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// What an operator has written to its log.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Operator {
    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// One of its metrics, summed.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metric(&self, name: &str) -> Outcome<f64> {
        Ok(crate::cluster::metric(&self.page().await?, name, &[]))
    }

    /// All its metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn page(&self) -> Outcome<String> {
        Ok(self.http.get(format!("{}/metrics", self.address)).send().await?.text().await?)
    }

    /// Waits until it leads, and gives the time that it took.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn leads(&self, limit: Duration) -> Outcome<Duration> {
        let led = until("the operator leads", limit, async || {
            Ok(match self.metric("flotilla_operator_leading").await {
                Ok(leading) if leading > 0.5 => Look::Break(()),
                Ok(_) => Look::Continue("it waits for the lease".to_owned()),
                Err(error) => Look::Continue(error.to_string()),
            })
        });
        Ok(led.await?.1)
    }

    /// Sends it a signal: STOP, CONT, TERM.
    ///
    /// # Errors
    /// It has ended.
    pub async fn signal(&self, signal: &str) -> Outcome {
        let pid = self.process.id().ok_or("the operator has ended by itself")?;
        let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().await?;
        ensure!(status.success(), "kill -{signal} {pid}: {status}");
        Ok(())
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn ended(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        Ok(tokio::time::timeout(limit, self.process.wait()).await.map_err(|_| "the operator does not end")??)
    }

    /// Ends it as Kubernetes does, by SIGTERM, and waits.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub async fn stop(mut self) -> Outcome {
        self.signal("TERM").await?;
        let status = self.ended(Duration::from_secs(30)).await?;
        ensure!(status.success(), "the operator ended with {status}");
        Ok(())
    }
}

async fn page(client: &Client, name: &str) -> Outcome<String> {
    let request = Request::new("").get(name, &GetParams::default()).map_err(|error| error.to_string())?;
    Ok(client.request_text(request).await?)
}

fn program(name: &str) -> Outcome<Command> {
    let cache = std::env::var("FLOTILLA_CACHE")
        .map(PathBuf::from)
        .or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cache/flotilla")))?;
    let path = cache.join("bin").join(name);
    ensure!(path.exists(), "{} is missing: run kind/tools --api-server", path.display());
    Ok(Command::new(path))
}

fn spawn(mut command: Command, folder: &Path, log: &str) -> Outcome<Child> {
    let log = fs::File::create(folder.join(log))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command.spawn()?)
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The server makes its certificate itself at its first start; it is on loopback, so its name is not checked.
fn kubeconfig(port: u16) -> Outcome<String> {
    Ok(serde_json::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e", "namespace": "default"}}],
        "clusters": [{"name": "e2e", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
        }}],
        "users": [{"name": "e2e", "user": {"token": TOKEN}}],
    }))?)
}
