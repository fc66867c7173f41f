//! What a server tells the service manager that started it: systemd's `sd_notify`, one datagram a message to the socket
//! that `NOTIFY_SOCKET` names.
//!
//! `READY=1` is sent once the listeners answer, not once the node serves: a node that waits for the others of a cluster
//! which is not founded yet is no start that failed, and whoever starts three of them one after the other would wait for
//! ever. That it does not serve yet stands in `STATUS=`, which `systemctl status` shows; for whom it waits, in the log.
//!
//! Nobody waits for what is sent here, and nothing depends on it: what cannot be sent is logged, and the server goes on.

use std::ffi::OsStr;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// The service manager, where there is one.
#[derive(Debug, Default)]
pub(super) struct Manager(Option<(UnixDatagram, SocketAddr)>);

impl Manager {
    /// The one that started this process, if it wants to be told.
    pub(super) fn of_environment() -> Self {
        std::env::var_os("NOTIFY_SOCKET")
            .filter(|name| !name.is_empty())
            .map_or_else(Self::default, |name| Self::at(&name))
    }

    fn at(name: &OsStr) -> Self {
        let reached = address(name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold up a server.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        match reached {
            Ok(reached) => Self(Some(reached)),
            Err(error) => {
                warn!(?name, %error, "NOTIFY_SOCKET names no socket: the service manager is told nothing");
                Self(None)
            }
        }
    }

    /// The listeners answer.
    pub(super) fn ready(&self, status: &str) {
        self.tell("READY=1", status);
    }

    /// What it does now, for people.
    pub(super) fn status(&self, status: &str) {
        self.tell("", status);
    }

    /// It stops, because it was told to.
    pub(super) fn stopping(&self, status: &str) {
        self.tell("STOPPING=1", status);
    }

    fn tell(&self, what: &str, status: &str) {
        let Some((socket, address)) = &self.0 else { return };
        // A line is a message of its own: the text is kept to one.
        let status = status.replace('\n', " ");
        let message = format!("{what}\nSTATUS={status}\n");
        if let Err(error) = socket.send_to_addr(message.trim_start().as_bytes(), address) {
            warn!(%error, what, "the service manager could not be told");
        }
    }
}

/// A path, or after an `@` a name in Linux' abstract name space.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    use std::os::unix::ffi::OsStrExt;
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', rest @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "is an absolute path, or @ and a name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_in_one_datagram_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str());
        manager.ready("waits for\nb:7402");
        manager.status("serves");
        manager.stopping("");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=waits for b:7402\n");
        assert_eq!(heard(&socket), "STATUS=serves\n");
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_is_reached_too() {
        let name = format!("quorate-notify-{}", std::process::id());
        let here = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&here).unwrap();
        Manager::at(OsStr::new(&format!("@{name}"))).status("serves");
        assert_eq!(heard(&socket), "STATUS=serves\n");
    }

    #[test]
    fn a_name_that_is_no_socket_and_a_manager_that_is_gone_hold_up_nobody() {
        assert!(Manager::at(OsStr::new("relative")).0.is_none());
        let gone = Manager::at(OsStr::new("/nowhere/notify"));
        assert!(gone.0.is_some());
        gone.ready("nobody hears this");
        Manager::default().stopping("nor this");
    }
}
