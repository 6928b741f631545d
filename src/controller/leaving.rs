//! Pure: which pods a scale-down takes, as far as Kubernetes has to be told.
//!
//! A ReplicaSet removes pods without a node first, then those that wait to start, then those that are not ready, and of the
//! ready ones those of the lowest deletion cost (`ActivePodsWithRanks` of Kubernetes 1.36). It knows nothing of queues, and of
//! equals it takes one that is alone on its node last and one of about the same age as likely as another. So of the ready
//! pods as many as are to go get a cost below that of all others, and no more.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::pods::PodView;
use crate::scaling::Standing;

/// The annotation: a whole number, 0 where it is absent.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The cost of a pod that is to go: no whole number lies between it and the default, so that every cost that somebody
/// else set stays below or above all of ours.
pub const LEAVING: i32 = -1;
/// The most pods that are told at a time; of more that go at once the rest is left to the ReplicaSet.
pub const MOST_CHANGES: usize = 32;

/// A pod whose cost changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// It is to go; else it no longer is, and its cost is removed.
    pub leaves: bool,
}

/// What has to change before `desired` of the pods are ordered, so that those go that serve badly, then those on the GPU that
/// is preferred least (`preference`: 0 is the first choice), then those that stand worst. Of equals the youngest goes. A cost
/// that somebody else set is left as it is, and ranks as Kubernetes ranks it.
pub fn changes(
    pods: &[PodView],
    standings: &BTreeMap<&str, Standing>,
    preference: impl Fn(&PodView) -> usize,
    desired: u32,
) -> Vec<Change> {
    let present = || pods.iter().filter(|pod| !pod.gone);
    let goes_anyway = present().filter(|pod| pod.ready.is_none() || pod.deletion_cost < LEAVING).count();
    let desired = usize::try_from(desired).unwrap_or(usize::MAX);
    let to_choose = present().count().saturating_sub(desired).saturating_sub(goes_anyway);
    let mut candidates: Vec<_> =
        present().filter(|pod| pod.ready.is_some() && [0, LEAVING].contains(&pod.deletion_cost)).collect();
    if to_choose == 0 || to_choose >= candidates.len() {
        return Vec::new();
    }
    let standing =
        |pod: &PodView| standings.get(pod.name.as_str()).copied().unwrap_or(Standing::Well { pending_images: 0 });
    candidates.sort_by_cached_key(|pod| {
        let standing = standing(pod);
        let is_well = standing != Standing::Sick;
        (is_well, Reverse(preference(pod)), standing, Reverse(pod.created), pod.name.clone())
    });
    let wanted = candidates.iter().enumerate().map(|(place, pod)| (*pod, place < to_choose));
    let mut changes: Vec<_> = wanted
        .filter(|(pod, leaves)| *leaves != (pod.deletion_cost == LEAVING))
        .map(|(pod, leaves)| Change { pod: pod.name.clone(), uid: pod.uid.clone(), leaves })
        .collect();
    // One that stays and is marked would go for certain; one that goes and is not marked may go all the same.
    changes.sort_by_key(|change| change.leaves);
    changes.truncate(MOST_CHANGES);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(name: &str, ready: bool, age: i64, cost: i32) -> PodView {
        let created = Timestamp::from_second(1_800_000_000 - age).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": created.to_string(),
                "annotations": {DELETION_COST: cost.to_string()}},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": created.to_string()}]},
        }))
        .unwrap();
        PodView::new(&pod)
    }

    fn told(changes: &[Change]) -> Vec<(&str, bool)> {
        changes.iter().map(|change| (change.pod.as_str(), change.leaves)).collect()
    }

    type Case<'a> = (&'static str, Vec<PodView>, Vec<(&'a str, Standing)>, u32, Vec<(&'static str, bool)>);

    #[test]
    fn who_goes() {
        let busy = |name| (name, Standing::Well { pending_images: 9 });
        let idle = |name| (name, Standing::Well { pending_images: 0 });
        let ready = |name: &str, age| pod(name, true, age, 0);
        let three = || vec![ready("a", 30), ready("b", 20), ready("c", 10)];
        let cases: Vec<Case<'_>> = vec![
            ("nobody is to go", three(), vec![], 3, vec![]),
            ("more are ordered", three(), vec![], 5, vec![]),
            ("all go", three(), vec![], 0, vec![]),
            ("of equals the youngest", three(), vec![], 2, vec![("c", true)]),
            ("the idle one", three(), vec![busy("a"), idle("b"), busy("c")], 2, vec![("b", true)]),
            ("the sick one", three(), vec![idle("a"), ("b", Standing::Sick), idle("c")], 2, vec![("b", true)]),
            ("as many as go", three(), vec![busy("c")], 1, vec![("b", true), ("a", true)]),
            (
                "a pod that is not ready goes by itself",
                vec![ready("a", 30), ready("b", 20), pod("c", false, 10, 0)],
                vec![],
                2,
                vec![],
            ),
            ("and counts", vec![ready("a", 30), ready("b", 20), pod("c", false, 10, 0)], vec![], 1, vec![("b", true)]),
            (
                "one that is going counts no more",
                vec![ready("a", 30), ready("b", 20), PodView { gone: true, ..ready("c", 10) }],
                vec![],
                2,
                vec![],
            ),
            (
                "an old mark on one that stays is taken off, first",
                vec![pod("a", true, 30, LEAVING), ready("b", 20), ready("c", 10)],
                vec![busy("a")],
                2,
                vec![("a", false), ("c", true)],
            ),
            (
                "the mark is there already",
                vec![ready("a", 30), ready("b", 20), pod("c", true, 10, LEAVING)],
                vec![],
                2,
                vec![],
            ),
            (
                "a user's lower cost goes before ours",
                vec![pod("a", true, 30, -100), ready("b", 20), ready("c", 10)],
                vec![],
                2,
                vec![],
            ),
            (
                "a user's higher cost goes after ours",
                vec![ready("a", 30), ready("b", 20), pod("c", true, 10, 5)],
                vec![],
                2,
                vec![("b", true)],
            ),
        ];
        for (what, pods, standings, desired, expected) in cases {
            let told_of = changes(&pods, &standings.into_iter().collect(), |_| 0, desired);
            assert_eq!(told(&told_of), expected, "{what}");
        }
    }

    /// It costs money every hour; what its last images wait for is over in seconds.
    #[test]
    fn the_gpu_that_is_preferred_least_goes_before_an_idle_one_and_after_a_sick_one() {
        let pods: Vec<_> =
            ["a", "b", "c"].into_iter().zip([30, 20, 10]).map(|(name, age)| pod(name, true, age, 0)).collect();
        let busy = Standing::Well { pending_images: 9 };
        let idle = Standing::Well { pending_images: 0 };
        let dear = |pod: &PodView| usize::from(pod.name == "a");
        let first = |standings: [(&str, Standing); 3]| {
            told(&changes(&pods, &standings.into_iter().collect(), dear, 2)).first().map(|(name, _)| (*name).to_owned())
        };
        assert_eq!(first([("a", busy), ("b", idle), ("c", idle)]).as_deref(), Some("a"));
        assert_eq!(first([("a", idle), ("b", Standing::Sick), ("c", idle)]).as_deref(), Some("b"));
    }

    #[test]
    fn a_hundred_that_go_at_once_are_told_in_part() {
        let pods: Vec<_> = (0..100).map(|age| pod(&format!("p{age:02}"), true, age, 0)).collect();
        assert_eq!(changes(&pods, &BTreeMap::new(), |_| 0, 1).len(), MOST_CHANGES);
    }

    /// As the pods are after the changes.
    fn after(pods: &[PodView], changes: &[Change]) -> Vec<PodView> {
        let apply = |pod: &PodView| {
            let mut pod = pod.clone();
            if let Some(change) = changes.iter().find(|change| change.uid == pod.uid) {
                pod.deletion_cost = if change.leaves { LEAVING } else { 0 };
            }
            pod
        };
        pods.iter().map(apply).collect()
    }

    /// What a ReplicaSet removes; where it is free to choose, what is worst for us.
    fn removed(pods: &[PodView], worst: impl Fn(&PodView) -> u32, desired: usize) -> Vec<&PodView> {
        let mut present: Vec<_> = pods.iter().filter(|pod| !pod.gone).collect();
        present.sort_by_key(|pod| (pod.ready.is_some(), pod.deletion_cost, Reverse(worst(pod))));
        present.truncate(present.len().saturating_sub(desired));
        present
    }

    proptest! {
        /// Whoever stays stands at least as well as whoever goes; and told once, there is nothing more to tell.
        #[test]
        fn those_that_stand_worst_go(
            fleet in prop::collection::vec((0_u32..4, prop::bool::weighted(0.8), -2_i32..2, 0_i64..5), 0..20),
            desired in 0_u32..20,
        ) {
            let named: Vec<_> = fleet.iter().enumerate().map(|(index, one)| (format!("p{index:02}"), *one)).collect();
            let pods: Vec<_> = named.iter().map(|(name, (_, ready, cost, age))| pod(name, *ready, *age, *cost)).collect();
            let standings: BTreeMap<_, _> =
                named.iter().map(|(name, (pending, ..))| (name.as_str(), Standing::Well { pending_images: *pending })).collect();
            let pending = |pod: &PodView| fleet[pod.name[1..].parse::<usize>().unwrap()].0;
            let changes = changes(&pods, &standings, |_| 0, desired);
            let told = after(&pods, &changes);
            prop_assert_eq!(super::changes(&told, &standings, |_| 0, desired), vec![]);
            let going = removed(&told, pending, usize::try_from(desired).unwrap());
            let marks = changes.iter().filter(|change| change.leaves).count();
            prop_assert!(marks <= going.len(), "{} marks for {} that go", marks, going.len());
            let ours = |pod: &PodView| pod.ready.is_some() && [0, LEAVING].contains(&pod.deletion_cost);
            let stay = told.iter().filter(|pod| ours(pod) && !going.iter().any(|gone| gone.uid == pod.uid));
            let least = stay.map(pending).min();
            let most = going.iter().filter(|pod| ours(pod)).map(|pod| pending(pod)).max();
            prop_assert!(least.zip(most).is_none_or(|(least, most)| most <= least), "{:?} goes before {:?}", most, least);
        }
    }
}
