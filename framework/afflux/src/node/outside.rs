//! The address under which others reach this node, where it listens on all of its addresses.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::settings::Settings;

/// Of the documentation's range: nobody is there, and what it is routed by is the default route.
const ELSEWHERE: &str = "192.0.2.1:9";

/// What the record in the registry says: `node.advertise`, else the address that is listened on, and in place of
/// `0.0.0.0` that of the interface that leads to `node.join` or, without it, to everywhere.
pub(super) fn address(settings: &Settings, bound: String) -> String {
    if !settings.node_advertise.is_empty() {
        return settings.node_advertise.clone();
    }
    let Some(listening) = bound.parse::<SocketAddr>().ok().filter(|address| address.ip().is_unspecified())
    else {
        return bound;
    };
    let towards = if settings.node_join.is_empty() { ELSEWHERE } else { &settings.node_join };
    match own_ip(towards) {
        Some(ip) => SocketAddr::new(ip, listening.port()).to_string(),
        None => {
            tracing::warn!(
                listen = settings.node_listen,
                "others cannot be told where this node is: set node.advertise to its HOST:PORT"
            );
            bound
        }
    }
}

/// The address from which packets to `towards` leave. Nothing is sent.
fn own_ip(towards: &str) -> Option<IpAddr> {
    [("0.0.0.0", 0), ("::", 0)].into_iter().find_map(|from| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(towards).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(advertise: &str, join: &str, bound: &str) -> String {
        let settings =
            Settings { node_advertise: advertise.into(), node_join: join.into(), ..Settings::default() };
        address(&settings, bound.to_owned())
    }

    #[test]
    fn a_node_on_all_addresses_tells_the_one_that_leads_to_whom_it_joins() {
        assert_eq!(told("", "127.0.0.1:9", "0.0.0.0:7000"), "127.0.0.1:7000");
    }

    #[test]
    fn what_is_set_and_what_is_an_address_already_stay() {
        assert_eq!(told("orders-1:7000", "127.0.0.1:9", "0.0.0.0:7000"), "orders-1:7000");
        assert_eq!(told("", "127.0.0.1:9", "10.0.0.5:7000"), "10.0.0.5:7000");
        assert_eq!(told("", "", "not-an-ip:7"), "not-an-ip:7");
    }
}
