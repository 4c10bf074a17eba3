//! One HTTP/1.1 exchange on an open connection.

use crate::engine::connection::Connection;
use crate::engine::http::{Body, HEAD_BYTES_MAX, Head};
use crate::engine::tally::Tally;
use crate::result::ErrorClass;

/// A request, ready to be sent many times.
#[derive(Clone, Debug)]
pub struct Request {
    head: Vec<u8>,
    upload_bytes: u64,
}

/// What happens to the connection behind the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It is used again.
    Keep,
    /// The target is asked to close it.
    Close,
}

impl Request {
    /// `GET path`.
    pub fn get(host: &str, path: &str, after: After) -> Self {
        Self { head: head("GET", host, path, after, ""), upload_bytes: 0 }
    }

    /// `POST path` with `bytes` of body.
    pub fn post(host: &str, path: &str, bytes: u64, after: After) -> Self {
        let framing = format!("Content-Length: {bytes}\r\nContent-Type: application/octet-stream\r\n");
        Self { head: head("POST", host, path, after, &framing), upload_bytes: bytes }
    }
}

fn head(method: &str, host: &str, path: &str, after: After, framing: &str) -> Vec<u8> {
    let connection = if after == After::Close { "Connection: close\r\n" } else { "" };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sluice-load\r\n{framing}{connection}\r\n")
        .into_bytes()
}

/// Whether the connection can take another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Another request may follow.
    Reusable,
    /// The target closes, or has closed.
    Last,
}

/// A failed exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub class: ErrorClass,
    /// No byte of an answer had come: on a reused connection the target may just have closed it.
    pub is_unanswered: bool,
}

/// Sends `request` and reads the whole answer. `buffer` is scratch that the caller keeps.
pub async fn exchange(
    connection: &mut Connection,
    request: &Request,
    tally: &Tally,
    buffer: &mut Vec<u8>,
) -> Result<Answer, Failure> {
    let unanswered = |class| Failure { class, is_unanswered: true };
    send(connection, request, tally).await.map_err(unanswered)?;
    if buffer.len() < READ_BYTES {
        buffer.resize(READ_BYTES, 0);
    }
    let mut filled = 0;
    loop {
        match connection.read(&mut buffer[filled..]).await {
            Ok(0) if filled == 0 => return Err(unanswered(ErrorClass::Closed)),
            Ok(0) => return Err(answered(ErrorClass::Closed)),
            Ok(count) => filled += count,
            Err(class) => return Err(Failure { class, is_unanswered: filled == 0 }),
        }
        while let Some(start) = AnswerStart::parse(&buffer[..filled]).map_err(|()| answered(ErrorClass::Protocol))? {
            if start.status < 200 {
                buffer.copy_within(start.head_bytes..filled, 0);
                filled -= start.head_bytes;
                continue;
            }
            return finish(connection, start, filled, tally, buffer).await.map_err(answered);
        }
        if filled == buffer.len() {
            return Err(answered(ErrorClass::Protocol));
        }
    }
}

/// What a response head says, without borrowing from the buffer.
#[derive(Clone, Copy, Debug)]
struct AnswerStart {
    status: u16,
    head_bytes: usize,
    body: Body,
    closes: bool,
}

impl AnswerStart {
    fn parse(bytes: &[u8]) -> Result<Option<Self>, ()> {
        let Some(head) = Head::parse(bytes).map_err(drop)? else { return Ok(None) };
        let status = head.status().map_err(drop)?;
        let body = head.response_body(status);
        Ok(Some(Self { status, head_bytes: head.length_bytes, body, closes: head.closes }))
    }
}

/// Reads the body, whose first bytes are in the buffer behind the head.
async fn finish(
    connection: &mut Connection,
    mut start: AnswerStart,
    filled: usize,
    tally: &Tally,
    buffer: &mut [u8],
) -> Result<Answer, ErrorClass> {
    let (mut from, mut to) = (start.head_bytes, filled);
    loop {
        let (taken, payload) = start.body.take(&buffer[from..to]).map_err(|_| ErrorClass::Protocol)?;
        tally.received(payload);
        if start.body.is_finished() {
            if from + taken != to {
                // Nothing was asked that these bytes could answer.
                return Err(ErrorClass::Protocol);
            }
            break;
        }
        match connection.read(buffer).await? {
            0 if start.body == Body::UntilEnd => break,
            0 => return Err(ErrorClass::Closed),
            count => (from, to) = (0, count),
        }
    }
    if !(200..300).contains(&start.status) {
        return Err(ErrorClass::Status);
    }
    Ok(if start.closes || start.body == Body::UntilEnd { Answer::Last } else { Answer::Reusable })
}

async fn send(connection: &mut Connection, request: &Request, tally: &Tally) -> Result<(), ErrorClass> {
    connection.write_all(&request.head).await?;
    let mut left = request.upload_bytes;
    while left > 0 {
        let count = left.min(UPLOAD.len() as u64);
        connection.write_all(&UPLOAD[..usize::try_from(count).unwrap_or(UPLOAD.len())]).await?;
        tally.sent(count);
        left -= count;
    }
    Ok(())
}

fn answered(class: ErrorClass) -> Failure {
    Failure { class, is_unanswered: false }
}

/// What uploads consist of.
static UPLOAD: [u8; 256 * 1024] = [b'u'; 256 * 1024];
/// Bytes per read: OpenSSL hands out one record at a time, and a head has to fit.
const READ_BYTES: usize = HEAD_BYTES_MAX + 1024;
