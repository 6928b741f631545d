//! A fleet of model servers that is none: objects of pods that no node runs, and one process that answers for all of them.
//!
//! It needs the network of `e2e/private-network`, where every pod's address is this machine.

pub mod bench;
pub mod collect;
pub mod objects;
pub mod page;
pub mod report;
pub mod server;

use std::net::Ipv4Addr;

/// The port of the pods' metrics.
pub const PORT: u16 = 8002;
/// Most pods: those that [`address`] has one for.
pub const MOST_PODS: usize = 250 * 250;

/// The address of a pod by its number, in 10.128.0.0/16.
pub fn address(pod: usize) -> Ipv4Addr {
    let octet = |number: usize| u8::try_from(number % 250).unwrap_or_default();
    Ipv4Addr::new(10, 128, octet(pod / 250), octet(pod) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_an_address_of_its_own() {
        let addresses: std::collections::BTreeSet<_> = (0..MOST_PODS).map(address).collect();
        assert_eq!(addresses.len(), MOST_PODS);
    }
}
