//! Which addresses may be connected to. What the user names may be private, for that is where object stores inside a cluster
//! are; where a redirect leads may not, for its author is whoever runs the server at the other end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who chose an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chosen {
    /// The user, by the URI or an endpoint.
    ByUser,
    /// A server, by a redirect.
    ByServer,
}

/// Whether the address may be connected to. Clouds' metadata services, which give out the node's own credentials, never are.
pub fn allowed(address: IpAddr, chosen: Chosen) -> bool {
    let address = unwrapped(address);
    match chosen {
        Chosen::ByUser => !is_never(address),
        Chosen::ByServer => !is_never(address) && is_global(address),
    }
}

/// The IPv4 address inside an IPv6 one, so that no form of writing gets past the rules.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Mapped, NAT64 and 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            v4(high, low)
        }
        // Compatible, but not :: and ::1.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => address,
    }
}

/// The metadata service of AWS over IPv6; its IPv4 one, and the other clouds', are link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast() || v6 == METADATA_V6,
    }
}

/// As the registries of special-purpose addresses (RFC 6890 and its successors) have it.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            let special = v4.is_private()
                || v4.is_loopback()
                || v4.is_documentation()
                || octets[0] == 0
                || octets[0] >= 240
                || (octets[0] == 100 && octets[1] & 0xc0 == 64)
                || (octets[0] == 192 && octets[1] == 0 && octets[2] == 0)
                || (octets[0] == 198 && octets[1] & 0xfe == 18);
            !special
        }
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            // Only 2000::/3 is given out, and of it 2001::/23 (Teredo and others) and 2001:db8::/32 are not the internet's.
            segments[0] & 0xe000 == 0x2000
                && !(segments[0] == 0x2001 && segments[1] < 0x200)
                && !(segments[0] == 0x2001 && segments[1] == 0xdb8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_internet_alone() {
        let private = "10.1.2.3 172.16.0.1 172.31.9.9 192.168.1.1 127.0.0.1 127.8.8.8 169.254.169.254 0.0.0.0 0.1.2.3 100.64.0.1 \
            100.127.0.1 192.0.0.8 192.0.2.1 198.18.0.1 198.19.0.1 224.0.0.1 240.0.0.1 255.255.255.255 ::1 :: fe80::1 fc00::1 \
            fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:7f00:1:: ::7f00:1 2001:db8::1 2001::1 100::1";
        for address in private.split_whitespace() {
            assert!(!allowed(address.parse().unwrap(), Chosen::ByServer), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(allowed(address.parse().unwrap(), Chosen::ByServer), "{address}");
        }
    }

    #[test]
    fn the_user_may_name_what_is_inside_but_no_metadata_service() {
        for address in ["10.1.2.3", "127.0.0.1", "::1", "fd12::1", "1.1.1.1"] {
            assert!(allowed(address.parse().unwrap(), Chosen::ByUser), "{address}");
        }
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.0", "224.0.0.1"]
        {
            assert!(!allowed(address.parse().unwrap(), Chosen::ByUser), "{address}");
        }
    }
}
