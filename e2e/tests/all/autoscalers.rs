//! Beside a `HorizontalPodAutoscaler` on CPU, in one run: the order of the two, not their seconds.

use flotilla_e2e::steps::{Step, quantile};
use flotilla_e2e::{Outcome, ensure, peers};

const STEPS: usize = 5;

fn decided(steps: &[Step]) -> Vec<Option<f64>> {
    steps.iter().map(|step| step.first_decision).collect()
}

#[tokio::test]
async fn flotilla_decides_before_a_cpu_autoscaler_and_where_that_sees_nothing() -> Outcome {
    let measured = peers::measure(STEPS, STEPS).await?;
    measured.print();
    let (ours, theirs) = (decided(&measured.flotilla), decided(&measured.cpu));
    ensure!(ours.len() == STEPS && theirs.len() == STEPS, "not all steps were made");
    let (ours, theirs) = (quantile(&ours, 0.5), quantile(&theirs, 0.5));
    ensure!(
        ours.zip(theirs).is_some_and(|(ours, theirs)| ours < theirs),
        "Flotilla decided after {ours:?} s, the HorizontalPodAutoscaler after {theirs:?} s (medians)"
    );
    for (who, steps) in [("Flotilla", &measured.flotilla), ("the HorizontalPodAutoscaler", &measured.cpu)] {
        for (number, step) in (1..).zip(steps) {
            ensure!(step.most > 1, "{who} ordered nothing in step {number}: {step:?}");
            ensure!(step.full.is_some(), "what {who} ordered in step {number} never answered: {step:?}");
            ensure!(step.failed_at_scale_down == 0, "{who} failed requests at a scale-down, step {number}: {step:?}");
        }
    }
    // The same load: there were too few replicas all the time, and CPU did not show it.
    let unmoved = &measured.unmoved;
    ensure!(unmoved.most == 1, "a HorizontalPodAutoscaler on CPU moved with a device that takes none: {unmoved:?}");
    ensure!(unmoved.cpu_percent.is_some_and(|cpu| cpu < 70), "it saw {:?} %", unmoved.cpu_percent);
    Ok(())
}
