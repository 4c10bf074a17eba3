//! The journal's own protocol: one datagram of fields for each line.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::{Delivery, Line};

/// A socket of the journal.
pub(super) struct Journal {
    path: PathBuf,
    log: &'static str,
    socket: Option<UnixDatagram>,
}

impl Journal {
    pub(super) fn at(path: &Path, log: &'static str) -> Self {
        Self { path: path.to_owned(), log, socket: None }
    }

    pub(super) fn write(&mut self, lines: &[Line]) -> Delivery {
        Delivery::one_by_one(lines, |line| {
            let result = self.send(line);
            if result.is_err() {
                // A journal that was restarted has another socket.
                self.socket = None;
            }
            result
        })
    }

    fn send(&mut self, line: &Line) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        let socket = self.socket.insert(socket);
        // A line has no line break, so that the plain form of a field will do (systemd.journal-fields(7), the native
        // protocol).
        let priority = line.severity as u8;
        let head = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=sluice\nSLUICE_LOG={}\nMESSAGE=", self.log);
        socket.send(&[head.as_bytes(), &line.text, b"\n"].concat()).map(drop)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // A journal that does not read loses lines; it does not hold the others up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
