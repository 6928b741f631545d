//! Who is compared: Flotilla, and a `HorizontalPodAutoscaler` on CPU, each in front of the same servers.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::load::{Payload, Target};
use crate::timeline::cpu_percent;
use crate::{Look, Outcome, Workspace, patched, timer, until};

/// How long a first replica may take; those of the processor start slowly within their limit.
const START: Duration = Duration::from_mins(4);

/// Who decides how many replicas there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaler {
    /// Flotilla, by the time that requests wait.
    Flotilla,
    /// A `HorizontalPodAutoscaler` on CPU, whose target is the `InferenceService` in mode External.
    Cpu {
        /// Percent of the request at which it holds the fleet.
        target: i32,
    },
}

/// What does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The timer: like a GPU, it takes time and next to no CPU.
    Timer,
    /// The processor, within a limit: EfficientNet-Lite0 on a photo, which takes 15 to 20 ms of it.
    Processor(Share),
}

/// A server's part of the processor, in thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What is requested, which is the 100 % of an autoscaler on CPU.
    pub requested: u32,
    /// What there is at most.
    pub limit: u32,
}

impl Share {
    /// The wait that is held: that for about two images.
    fn target_milliseconds(self) -> u32 {
        40_000 / self.limit
    }
}

/// One of the compared.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The service's name.
    pub name: &'static str,
    /// Who decides.
    pub scaler: Scaler,
    /// What does the work.
    pub device: Device,
    /// Bounds of the number of replicas.
    pub replicas: (i32, i32),
    /// For how long fewer must do; `None`: what each does by default (300 s in both).
    pub window: Option<Duration>,
}

impl Contender {
    /// The name of its `HorizontalPodAutoscaler`, if it has one.
    pub fn autoscaler(&self) -> Option<&'static str> {
        matches!(self.scaler, Scaler::Cpu { .. }).then_some(self.name)
    }

    fn manifest(&self) -> Value {
        let (min, max) = self.replicas;
        let scaling = match self.scaler {
            Scaler::Flotilla => json!({"minReplicas": min, "maxReplicas": max,
                "scaleDownStabilizationSeconds": self.window.map(|window| window.as_secs())}),
            Scaler::Cpu { .. } => json!({"mode": "External", "minReplicas": min, "maxReplicas": max}),
        };
        let device = match self.device {
            // For an autoscaler on CPU, what a server in front of a GPU is given at least: it waits, and hardly computes.
            Device::Timer if self.autoscaler().is_some() => {
                json!({"runtime": {"resources": {"requests": {"cpu": "200m"}}}})
            }
            Device::Timer => json!({}),
            Device::Processor(share) => json!({
                "model": {
                    "source": {"image": {"reference": "flotilla/model-efficientnet-lite0:1", "path": "model"}},
                    "preprocessing": {"preset": "ImageNet"},
                },
                // Warmed up before it is ready, every batch size within its limit: so few of them.
                "runtime": {
                    "maxBatchSize": 2,
                    "resources": {
                        "requests": {"cpu": format!("{}m", share.requested), "memory": "128Mi"},
                        "limits": {"cpu": format!("{}m", share.limit), "memory": "512Mi"},
                    },
                },
                "scaling": {"targetQueueTimeMilliseconds": share.target_milliseconds()},
            }),
        };
        timer(self.name, &patched(&device, &json!({"scaling": scaling, "replicas": min})))
    }

    fn horizontal_pod_autoscaler(&self, target: i32) -> Outcome<HorizontalPodAutoscaler> {
        let behavior = self.window.map(|window| json!({"scaleDown": {"stabilizationWindowSeconds": window.as_secs()}}));
        let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}});
        Ok(serde_json::from_value(json!({
            "metadata": {"name": self.name},
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "flotilla.dev/v1alpha1", "kind": "InferenceService", "name": self.name,
                },
                "minReplicas": self.replicas.0, "maxReplicas": self.replicas.1,
                "metrics": [{"type": "Resource", "resource": cpu}],
                "behavior": behavior,
            },
        }))?)
    }

    /// Makes it, and waits until its least number of replicas answers and its autoscaler, if any, knows their CPU.
    ///
    /// # Errors
    /// It does not come to that in time.
    pub async fn start(&self, workspace: &Workspace) -> Outcome<Target> {
        workspace.apply(&self.manifest()).await?;
        workspace.replicas(self.name, self.replicas.0, START).await?;
        if let Scaler::Cpu { target } = self.scaler {
            let autoscalers = workspace.api::<HorizontalPodAutoscaler>();
            autoscalers.create(&PostParams::default(), &self.horizontal_pod_autoscaler(target)?).await?;
        }
        self.rested(workspace).await?;
        let target = Target::of(workspace, self.name).await?;
        Ok(if matches!(self.device, Device::Processor(_)) { target.sending(Payload::photo()) } else { target })
    }

    /// Waits until it is as before any load: at its least number, and its autoscaler has seen that nothing is to do.
    ///
    /// # Errors
    /// It does not come to rest in time.
    pub async fn rested(&self, workspace: &Workspace) -> Outcome {
        workspace.replicas(self.name, self.replicas.0, START).await?;
        let (Some(name), Scaler::Cpu { target }) = (self.autoscaler(), self.scaler) else { return Ok(()) };
        let autoscalers = workspace.api::<HorizontalPodAutoscaler>();
        until(&format!("{name}: its HorizontalPodAutoscaler sees idle replicas"), START, async || {
            let autoscaler = autoscalers.get(name).await?;
            Ok(match cpu_percent(&autoscaler) {
                Some(cpu) if cpu < target => Look::Break(()),
                cpu => Look::Continue(format!("{cpu:?} %: {:?}", autoscaler.status)),
            })
        })
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla::api::InferenceService;
    use flotilla::api::scaling::ScalingMode;

    #[test]
    fn both_get_the_same_servers_and_the_same_window() {
        for device in [Device::Timer, Device::Processor(Share { requested: 100, limit: 200 })] {
            for (window, seconds) in [(Some(Duration::from_secs(30)), 30), (None, 300)] {
                let of = |scaler| Contender { name: "one", scaler, device, replicas: (2, 6), window };
                let (ours, theirs) = (of(Scaler::Flotilla), of(Scaler::Cpu { target: 70 }));
                let read = |contender: &Contender| -> InferenceService {
                    serde_json::from_value(contender.manifest()).unwrap()
                };
                let (flotilla, external) = (read(&ours).spec, read(&theirs).spec);
                assert_eq!(flotilla.model, external.model);
                assert_eq!(
                    (flotilla.scaling.mode, external.scaling.mode),
                    (ScalingMode::QueueTime, ScalingMode::External)
                );
                assert_eq!(
                    (flotilla.scaling.min_replicas, flotilla.scaling.max_replicas, external.replicas),
                    (2, 6, 2)
                );
                assert_eq!(flotilla.scaling.scale_down_stabilization_seconds, seconds);
                if device != Device::Timer {
                    assert_eq!(flotilla.runtime, external.runtime);
                }
                let autoscaler = theirs.horizontal_pod_autoscaler(70).unwrap().spec.unwrap();
                assert_eq!((autoscaler.min_replicas, autoscaler.max_replicas), (Some(2), 6));
                let down = autoscaler.behavior.and_then(|behavior| behavior.scale_down?.stabilization_window_seconds);
                assert_eq!(down, window.map(|_| 30), "its own default is 300 s");
            }
        }
    }
}
