//! Free ports for processes that must know each other's before they start.
//!
//! They are taken below the range from which the kernel picks the ports of outgoing connections (32768 and up on Linux): a node that is
//! killed and restarted would else now and then find its port used by one of the many connections that the clients make meanwhile.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static HANDED_OUT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that nobody listens on, and that this process has not handed out before.
///
/// # Panics
/// If no port is free.
pub fn free_port() -> u16 {
    // Test programs that run at the same time begin at different places.
    let begin = (std::process::id() % 400) as u16 * 50;
    for _ in 0..COUNT {
        let offset = HANDED_OUT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(offset) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("none of the ports {FIRST} to {} on 127.0.0.1 is free", FIRST + COUNT - 1);
}

/// `127.0.0.1:port` for a free port.
pub fn free_addr() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_handed_out_and_none_twice() {
        let ports: Vec<u16> = (0..20).map(|_| free_port()).collect();
        let distinct: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), ports.len());
        let _taken = TcpListener::bind(("127.0.0.1", ports[0])).expect("it was free");
        HANDED_OUT.fetch_sub(1, Ordering::Relaxed);
        assert!(TcpListener::bind(("127.0.0.1", ports[0])).is_err(), "a taken port cannot be bound, so it is not handed out");
    }
}
