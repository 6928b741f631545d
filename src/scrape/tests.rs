//! Tests against servers on the loopback address.
