//! Foreign client programs: what goes in, what comes out.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{process, wait_until};

/// What a program that ended by itself left.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) success: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Output {
    /// The body of the HTTP answer in the output.
    pub(crate) fn http_body(&self) -> &[u8] {
        let at = self.stdout.windows(4).position(|window| window == b"\r\n\r\n");
        &self.stdout[at.unwrap_or_else(|| panic!("no HTTP answer: {}", self.text())) + 4..]
    }

    /// Both outputs as text.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr)
    }
}

/// Runs a program to its end. Its input stays open until then: some clients take its end for a wish to leave.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut dialog = Dialog::start(command);
    let _ = dialog.input.as_mut().expect("input is open").write_all(input);
    dialog.finish()
}

/// A program that is talked to.
pub(crate) struct Dialog {
    child: Child,
    input: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
}

struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Dialog {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { input: child.stdin.take(), child, stdout: Stream::read(stdout), stderr: Stream::read(stderr) }
    }

    /// Writes in one go.
    pub(crate) fn say(&mut self, text: &str) {
        self.input.as_mut().expect("input is open").write_all(text.as_bytes()).unwrap();
    }

    /// Writes everything and ends the program's input.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.take().expect("input is open").write_all(bytes).unwrap();
    }

    /// Waits until the program has written `text` on either output.
    pub(crate) fn wait_for(&self, text: &str) {
        wait_until(&format!("program writes {text:?}"), || self.text().contains(text));
    }

    /// Both outputs so far.
    pub(crate) fn text(&self) -> String {
        let of = |stream: &Stream| String::from_utf8_lossy(&stream.bytes.lock().unwrap()).into_owned();
        of(&self.stdout) + &of(&self.stderr)
    }

    /// Waits until the program ends by itself.
    pub(crate) fn finish(mut self) -> Output {
        let status = process::wait(&mut self.child);
        Output {
            success: status.success(),
            stdout: self.stdout.finish(),
            stderr: String::from_utf8_lossy(&self.stderr.finish()).into_owned(),
        }
    }
}

impl Drop for Dialog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let target = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                target.lock().unwrap().extend_from_slice(&buffer[..len]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn finish(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}
