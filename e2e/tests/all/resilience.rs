//! The operator is killed, absent, replaced; objects are edited and deleted. Tests here disturb the operator for everybody,
//! so one runs at a time.

use std::time::Duration;

use flotilla_e2e::load::{Arrivals, Connections, Load, Plan, Target};
use flotilla_e2e::table::Table;
use flotilla_e2e::workspace::owned;
use flotilla_e2e::{Look, Outcome, Workspace, ensure, operator, timer, until, with_namespace};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

const START: Duration = Duration::from_secs(90);
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn an_operator_killed_in_the_middle_of_an_update_is_continued() -> Outcome {
    let _alone = ALONE.lock().await;
    with_namespace(async |workspace| {
        let spec = json!({"scaling": {"mode": "External", "maxReplicas": 3}, "replicas": 3});
        workspace.apply(&timer("update", &spec)).await?;
        workspace.replicas("update", 3, START).await?;
        let target = Target::of(workspace, "update").await?;
        let load = Load::start(
            &target,
            Plan {
                rate: 30.0,
                connections: Connections::Held(8),
                lasting: Duration::from_mins(5),
                arrivals: Arrivals::Poisson,
            },
        )?;
        let old: Vec<String> = workspace.pods("update").await?.iter().map(ResourceExt::name_any).collect();
        let changed = json!({"runtime": {"maxBatchSize": 16}, "scaling": spec["scaling"], "replicas": 3});
        workspace.apply(&timer("update", &changed)).await?;
        until("the update is in its middle", START, async || {
            let pods = workspace.pods("update").await?;
            let new = pods.iter().filter(|pod| !old.contains(&pod.name_any())).count();
            Ok(if new > 0 { Look::Break(()) } else { Look::Continue("no new pod".to_owned()) })
        })
        .await?;
        let (leader, _) = operator::led(&workspace.cluster, START).await?;
        operator::signal(&workspace.cluster, &leader, "KILL").await?;
        until("every pod is a new one and the service says so", START * 2, async || {
            let pods = workspace.pods("update").await?;
            let left = pods.iter().filter(|pod| old.contains(&pod.name_any())).count();
            Ok(if left == 0 && pods.len() == 3 { Look::Break(()) } else { Look::Continue(format!("{left} old pods")) })
        })
        .await?;
        workspace.condition("update", "Ready", "True", Some("Serving"), START).await?;
        load.stop().await?.all_answered()
    })
    .await
}

#[tokio::test]
async fn a_service_deleted_while_no_operator_runs_leaves_nothing() -> Outcome {
    let _alone = ALONE.lock().await;
    with_namespace(async |workspace| {
        workspace.apply(&timer("orphan", &json!({}))).await?;
        workspace.ready("orphan", START).await?;
        let operators = operator::wanted(&workspace.cluster).await?;
        operator::scale(&workspace.cluster, 0, START).await?;
        let outcome = async {
            workspace.delete("orphan").await?;
            until("nothing is left", START, async || {
                let left = owned(workspace, "orphan").await?;
                Ok(if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("{left:?}")) })
            })
            .await
        };
        let outcome = outcome.await;
        operator::scale(&workspace.cluster, operators, START).await?;
        outcome.map(drop)
    })
    .await
}

/// A leader that hangs (its node is lost, or its machine swaps) gives nothing back: the standby has to see the lease run out.
#[tokio::test]
async fn a_standby_takes_over_from_a_leader_that_hangs() -> Outcome {
    let _alone = ALONE.lock().await;
    with_namespace(async |workspace| {
        let cluster = &workspace.cluster;
        operator::scale(cluster, 2, START).await?;
        let (old, _) = operator::led(cluster, START).await?;
        operator::signal(cluster, &old, "STOP").await?;
        let outcome = async {
            let took_over = until("another operator leads", Duration::from_secs(20), async || {
                Ok(match operator::leader(cluster).await? {
                    Some(leader) if leader != old => Look::Break(leader),
                    other => Look::Continue(format!("the leader is {other:?}")),
                })
            });
            let (new, took) = took_over.await?;
            // It does the work, not only the lease.
            workspace.apply(&timer("after", &json!({}))).await?;
            workspace.condition("after", "Progressing", "True", None, Duration::from_secs(10)).await?;
            Outcome::Ok((new, took))
        };
        let outcome = outcome.await;
        // The one that hung wakes up as a leader in its own eyes. It must end, and leave the lease where it is.
        operator::signal(cluster, &old, "CONT").await?;
        let (new, took) = outcome?;
        workspace.ready("after", START).await?;
        operator::scale(cluster, 2, START).await?;
        let leader = operator::leader(cluster).await?;
        ensure!(leader.as_deref() == Some(new.as_str()), "the lease went from {new} to {leader:?} when {old} woke up");
        let mut table = Table::new("The leader hangs", &["what", "after", "limit"]);
        table.row(["the standby leads".to_owned(), format!("{:.1} s", took.as_secs_f64()), "20 s".to_owned()]);
        table.print();
        Ok(())
    })
    .await
}

/// An operator that ends in order gives its lease back.
#[tokio::test]
async fn a_rolling_restart_hands_the_lease_over_at_once() -> Outcome {
    let _alone = ALONE.lock().await;
    with_namespace(async |workspace| {
        let cluster = &workspace.cluster;
        operator::scale(cluster, 2, START).await?;
        let (old, _) = operator::led(cluster, START).await?;
        operator::delete(cluster, &old).await?;
        let ((), took) = until("another operator leads", Duration::from_secs(10), async || {
            Ok(match operator::leader(cluster).await? {
                Some(leader) if leader != old => Look::Break(()),
                other => Look::Continue(format!("the leader is {other:?}")),
            })
        })
        .await?;
        operator::scale(cluster, 2, START).await?;
        let mut table = Table::new("The leader's pod is deleted", &["what", "after", "limit"]);
        table.row(["the standby leads".to_owned(), format!("{:.1} s", took.as_secs_f64()), "10 s".to_owned()]);
        table.print();
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_others_change_or_delete_comes_back() -> Outcome {
    let _alone = ALONE.lock().await;
    with_namespace(async |workspace| {
        workspace.apply(&timer("drift", &json!({}))).await?;
        workspace.ready("drift", START).await?;
        operator::led(&workspace.cluster, START).await?;
        let mut table = Table::new("Drift is repaired", &["object", "edited", "deleted"]);
        let wrong = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "wrong"}}});
        let port = json!([{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 1234}]);
        repaired::<Service>(workspace, "drift-inference", "/spec/ports/0/targetPort", &port, &mut table).await?;
        let token = json!([{"op": "replace", "path": "/automountServiceAccountToken", "value": true}]);
        let path = "/automountServiceAccountToken";
        repaired::<ServiceAccount>(workspace, "drift-inference", path, &token, &mut table).await?;
        let budget = json!([{"op": "replace", "path": "/spec/maxUnavailable", "value": 7}]);
        let path = "/spec/maxUnavailable";
        repaired::<PodDisruptionBudget>(workspace, "drift-inference", path, &budget, &mut table).await?;
        let open = json!([{"op": "replace", "path": "/spec/ingress", "value": [{}]}]);
        repaired::<NetworkPolicy>(workspace, "drift-inference", "/spec/ingress", &open, &mut table).await?;
        let maps = workspace.api::<ConfigMap>().list(&ListParams::default()).await?;
        let settings = maps.iter().map(ResourceExt::name_any).find(|name| name.starts_with("drift-settings-"));
        // It is immutable, so all that can drift are its labels.
        let label = "/metadata/labels/app.kubernetes.io~1part-of";
        let relabelled = json!([{"op": "replace", "path": label, "value": wrong["metadata"]["labels"]["app.kubernetes.io/part-of"]}]);
        repaired::<ConfigMap>(workspace, &settings.ok_or("no settings")?, label, &relabelled, &mut table).await?;
        let image = "/spec/template/spec/containers/0/image";
        let other = json!([{"op": "replace", "path": image, "value": "registry.invalid/other:1"}]);
        repaired::<Deployment>(workspace, "drift-cpu-stable", image, &other, &mut table).await?;
        workspace.ready("drift", START).await?;
        table.print();
        Ok(())
    })
    .await
}

/// Edits an object and deletes it; both are undone within 10 s, and what comes back is as it was.
async fn repaired<K>(workspace: &Workspace, name: &str, path: &str, edit: &Value, table: &mut Table) -> Outcome
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    const LIMIT: Duration = Duration::from_secs(10);
    let objects = workspace.api::<K>();
    let original = objects.get(name).await?;
    let value = serde_json::to_value(&original)?.pointer(path).cloned().ok_or_else(|| format!("no {path}"))?;
    let undone = async |uid: Option<String>| {
        until(&format!("{} {name} is as it was", K::kind(&())), LIMIT, async || {
            let Some(object) = objects.get_opt(name).await? else { return Ok(Look::Continue("gone".to_owned())) };
            let now = serde_json::to_value(&object)?.pointer(path).cloned();
            let done = now.as_ref() == Some(&value) && (uid.is_none() || object.uid() != uid);
            Ok(if done { Look::Break(()) } else { Look::Continue(format!("{now:?}")) })
        })
        .await
    };
    let request: Patch<K> = Patch::Json(serde_json::from_value(edit.clone())?);
    let edited = objects.patch(name, &PatchParams::default(), &request).await?;
    let seen = serde_json::to_value(&edited)?.pointer(path).cloned();
    ensure!(seen.as_ref() != Some(&value), "the edit of {name} changes nothing");
    let ((), after_edit) = undone(None).await?;
    objects.delete(name, &DeleteParams::background()).await?;
    let ((), after_delete) = undone(original.uid()).await?;
    let time = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    table.row([format!("{} {name}", K::kind(&())), time(after_edit), time(after_delete)]);
    Ok(())
}
