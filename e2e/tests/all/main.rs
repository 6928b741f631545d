//! All end-to-end tests, as one program: linking takes longer than compiling. `e2e/run` runs it a file at a time.

mod apiserver;
mod autoscalers;
mod bad_manifests;
mod deletion_cost;
mod examples;
mod external;
mod failures;
mod fetched;
mod fields;
mod keda;
mod lifecycle;
mod metrics_outage;
mod resilience;
mod scaling;
mod traffic;
mod triton;
