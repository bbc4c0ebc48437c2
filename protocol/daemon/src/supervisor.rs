//! Word to the supervisor that started the program, as systemd's `Type=notify` wants it (`sd_notify(3)`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Where the supervisor listens.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Tells it something, such as `READY=1`. Does nothing without one; that it cannot be told is only worth a line in the log.
pub fn tell(state: &str) {
    if let Err(e) = send(state) {
        warn!(error = %e, state, "the supervisor cannot be told");
    }
}

fn send(state: &str) -> io::Result<()> {
    let Some(place) = std::env::var_os(NOTIFY_SOCKET).filter(|place| !place.is_empty()) else { return Ok(()) };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::path::Path::new(std::ffi::OsStr::from_bytes(path)))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
