//! The harness of the tests on a real cluster, and of the benchmarks that need an API server.
//!
//! `tests/all/apiserver.rs` needs `kube-apiserver` and `etcd` alone; every other test needs the cluster of `kind/up` with
//! the charts installed. `e2e/run` prepares both. Waits are on conditions and have limits; a failure prints events,
//! logs and objects.

/// Reports a failed expectation as an error, so that the namespace can be looked at before it is removed.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err(format!($($message)+).into());
        }
    };
}

pub mod apiserver;
pub mod closed_loop;
pub mod cluster;
pub mod contender;
pub mod dump;
pub mod fleet;
pub mod load;
pub mod manifests;
pub mod many;
pub mod node;
pub mod operator;
pub mod peers;
pub mod plot;
pub mod process;
pub mod program;
pub mod scale_bench;
pub mod steps;
pub mod study;
pub mod table;
pub mod timeline;
pub mod until;
pub mod workspace;

pub use cluster::Cluster;
pub use manifests::{patched, timer};
pub use until::{Look, throughout, until};
pub use workspace::{Workspace, with_namespace};

/// What went wrong, as a sentence.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A test's result.
pub type Outcome<T = ()> = Result<T, Error>;
