//! Many services against kube-apiserver and etcd alone: how long until all have their objects, what the operator needs for
//! it, and that it then rests.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla::api::{InferenceService, condition};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;

use crate::apiserver::{ApiServer, Operator};
use crate::process::{memory, processor_time};
use crate::table::Table;
use crate::{Look, Outcome, many, until};

const LIMIT: Duration = Duration::from_mins(10);
/// After so long without a write nothing is under way: what was measured is published at most every 30 s.
const AT_REST: Duration = Duration::from_secs(32);

/// The results.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// How many `InferenceServices` there were.
    pub services: usize,
    /// Seconds from the first create to the last.
    pub creating_seconds: f64,
    /// Seconds from the first create until every service had all six objects and all conditions.
    pub all_done_seconds: f64,
    /// The operator's resident memory then, and at most until then.
    pub resident_mebibytes: f64,
    /// At most.
    pub peak_resident_mebibytes: f64,
    /// Processor seconds that the operator took until then.
    pub processor_seconds: f64,
    /// Mutating requests until then, by what they were about; leases and the creates of the services excepted.
    pub writes: Vec<(String, u64)>,
    /// The same per service.
    pub writes_per_service: f64,
    /// How long it was watched at rest.
    pub rest_seconds: f64,
    /// Mutating requests that the API server counted in that time; leases excepted.
    pub writes_at_rest: Vec<(String, u64)>,
    /// One of the objects that changed in that time, before and after.
    pub changed_at_rest: Option<[InferenceService; 2]>,
    /// Processor seconds that the operator took in that time.
    pub processor_seconds_at_rest: f64,
}

/// Creates `count` services, waits until the operator has done with them, and watches it rest.
///
/// # Errors
/// A service did not get its objects in time, or something does not answer.
pub async fn measure(server: &ApiServer, operator: &Operator, count: usize, rest: Duration) -> Outcome<Measured> {
    many::namespaces(server, "scale").await?;
    let before = server.writes().await?;
    let started = Instant::now();
    many::create(server, "scale", count, |index| {
        let gpu = if index % 2 == 0 { json!({"placement": {"gpu": {}}}) } else { json!({}) };
        crate::patched(&gpu, &json!({"service": {"type": "ClusterIP"}}))
    })
    .await?;
    let creating = started.elapsed();
    until("every service has all its objects and conditions", LIMIT, async || {
        let done = complete(&server.client).await?;
        Ok(if done >= count { Look::Break(()) } else { Look::Continue(format!("{done} of {count}")) })
    })
    .await?;
    let done = started.elapsed();
    let pid = operator.pid().ok_or("the operator has ended")?;
    let processor = processor_time(pid)?.total();
    let (resident, peak) = memory(pid)?;
    let after = settled(server).await?;
    let mut writes = difference(&before, &after);
    // Creating them was ours.
    writes.retain(|(what, _)| what != "POST inferenceservices" && !what.ends_with(" namespaces"));
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_service = writes.iter().map(|(_, count)| *count).sum::<u64>() as f64 / count as f64;

    let all: Api<InferenceService> = Api::all(server.client.clone());
    let listed = all.list(&ListParams::default()).await?.items;
    let processor_before = processor_time(pid)?.total();
    let resting = Instant::now();
    crate::throughout("the operator runs", rest, async || {
        Ok(operator.metric("flotilla_operator_leading").await.map(drop).map_err(|error| error.to_string()))
    })
    .await?;
    let again = all.list(&ListParams::default()).await?.items;
    Ok(Measured {
        changed_at_rest: listed.into_iter().zip(again).find(|(old, new)| old != new).map(<[_; 2]>::from),
        services: count,
        creating_seconds: creating.as_secs_f64(),
        all_done_seconds: done.as_secs_f64(),
        resident_mebibytes: resident,
        peak_resident_mebibytes: peak,
        processor_seconds: processor,
        writes,
        writes_per_service: per_service,
        writes_at_rest: difference(&after, &server.writes().await?),
        rest_seconds: resting.elapsed().as_secs_f64(),
        processor_seconds_at_rest: processor_time(pid)?.total() - processor_before,
    })
}

impl Measured {
    /// Prints it as a table.
    pub fn print(&self) {
        let mut table = Table::new(
            format!("{} InferenceServices, kube-apiserver and etcd alone", self.services),
            &["what", "measured"],
        );
        table.row(["all created".to_owned(), format!("{:.1} s", self.creating_seconds)]);
        table.row(["all have six objects and every condition".to_owned(), format!("{:.1} s", self.all_done_seconds)]);
        table.row(["operator's memory then".to_owned(), format!("{:.0} MiB", self.resident_mebibytes)]);
        table.row(["operator's memory at most".to_owned(), format!("{:.0} MiB", self.peak_resident_mebibytes)]);
        table.row(["operator's processor time".to_owned(), format!("{:.1} s", self.processor_seconds)]);
        table.row(["writes per service".to_owned(), format!("{:.2}", self.writes_per_service)]);
        for (what, count) in &self.writes {
            table.row([format!("  {what}"), count.to_string()]);
        }
        let at_rest: u64 = self.writes_at_rest.iter().map(|(_, count)| count).sum();
        table.row([format!("writes in {:.0} s at rest", self.rest_seconds), at_rest.to_string()]);
        for (what, count) in &self.writes_at_rest {
            table.row([format!("  {what}"), count.to_string()]);
        }
        table.row(["operator's processor time at rest".to_owned(), format!("{:.2} s", self.processor_seconds_at_rest)]);
        table.print();
    }
}

/// How many services have all six objects and every condition.
///
/// # Errors
/// The API server's message.
pub async fn complete(client: &Client) -> Outcome<usize> {
    let services = Api::<InferenceService>::all(client.clone()).list(&ListParams::default()).await?;
    let conditioned: BTreeSet<String> = services
        .into_iter()
        .filter(|service| {
            let conditions = service.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            condition::ALL.iter().all(|kind| conditions.iter().any(|condition| condition.type_ == *kind))
        })
        .map(|service| service.name_any())
        .collect();
    if conditioned.is_empty() {
        return Ok(0);
    }
    let owned = [
        instances::<Deployment>(client).await?,
        instances::<Service>(client).await?,
        instances::<ServiceAccount>(client).await?,
        instances::<ConfigMap>(client).await?,
        instances::<PodDisruptionBudget>(client).await?,
        instances::<NetworkPolicy>(client).await?,
    ];
    Ok(conditioned.iter().filter(|name| owned.iter().all(|kind| kind.contains(*name))).count())
}

/// The services that have an object of a kind.
async fn instances<K>(client: &Client) -> Outcome<BTreeSet<String>>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=flotilla");
    let objects = Api::<K>::all(client.clone()).list_metadata(&ours).await?;
    Ok(objects.into_iter().filter_map(|object| object.labels().get("app.kubernetes.io/instance").cloned()).collect())
}

/// What the API server has counted once nothing was written for longer than anything waits.
///
/// # Errors
/// It did not come to that in time.
pub async fn settled(server: &ApiServer) -> Outcome<Vec<(String, u64)>> {
    let mut last = (Instant::now(), server.writes().await?);
    let (writes, _) = until("the writes come to rest", LIMIT, async || {
        let now = server.writes().await?;
        if now != last.1 {
            last = (Instant::now(), now);
        }
        let rested = last.0.elapsed() >= AT_REST;
        Ok(if rested { Look::Break(last.1.clone()) } else { Look::Continue(format!("{:?}", last.1)) })
    })
    .await?;
    Ok(writes)
}

/// What was counted in between, of what was counted at all.
pub fn difference(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<(String, u64)> {
    after
        .iter()
        .map(|(what, count)| {
            let old = before.iter().find(|(name, _)| name == what).map_or(0, |(_, count)| *count);
            (what.clone(), count - old)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}
