//! HTTP/1.1 messages without I/O: heads in, framing out (RFC 9112). Shared by the client and the built-in backend.

/// Largest head that is read; a longer one is an error.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// A message that is not HTTP/1.1 as this crate speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1.1 message: {0}")]
pub struct BadMessage(pub &'static str);

/// The first line and the framing of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The line without its end.
    pub start_line: &'a str,
    /// Bytes up to and with the empty line.
    pub length_bytes: usize,
    /// `Content-Length`, if there is one.
    pub content_length: Option<u64>,
    /// The body is chunked.
    pub is_chunked: bool,
    /// `Connection: close`.
    pub closes: bool,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
}

impl<'a> Head<'a> {
    /// Parses a head at the start of `bytes`; `None` while it is incomplete.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, BadMessage> {
        let Some(end) = head_end(bytes) else {
            return if bytes.len() > HEAD_BYTES_MAX { Err(BadMessage("head too long")) } else { Ok(None) };
        };
        let text = std::str::from_utf8(&bytes[..end - 4]).map_err(|_| BadMessage("head is not text"))?;
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default();
        let mut head = Self {
            start_line,
            length_bytes: end,
            content_length: None,
            is_chunked: false,
            closes: start_line.contains("HTTP/1.0"),
            expects_continue: false,
        };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(BadMessage("header without a colon"))?;
            head.take(name, value.trim())?;
        }
        Ok(Some(head))
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), BadMessage> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| BadMessage("Content-Length is not a number"))?;
            if self.content_length.is_some_and(|known| known != length) {
                return Err(BadMessage("two Content-Lengths"));
            }
            self.content_length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.is_chunked = value.to_ascii_lowercase().contains("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            self.closes |= value.to_ascii_lowercase().contains("close");
        } else if name.eq_ignore_ascii_case("expect") {
            self.expects_continue = value.eq_ignore_ascii_case("100-continue");
        }
        Ok(())
    }

    /// The status of a response.
    pub fn status(&self) -> Result<u16, BadMessage> {
        let rest = self.start_line.strip_prefix("HTTP/1.").ok_or(BadMessage("not a status line"))?;
        let status = rest.get(2..5).ok_or(BadMessage("no status"))?;
        status.parse().map_err(|_| BadMessage("the status is not a number"))
    }

    /// Method and target of a request.
    pub fn request(&self) -> Result<(&'a str, &'a str), BadMessage> {
        let mut words = self.start_line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some(version)) if version.starts_with("HTTP/1.") => Ok((method, target)),
            _ => Err(BadMessage("not a request line")),
        }
    }

    /// How the body of a response with `status` ends (RFC 9112 section 6.3).
    pub fn response_body(&self, status: u16) -> Body {
        match (status, self.is_chunked, self.content_length) {
            (100..=199 | 204 | 304, ..) => Body::Left(0),
            (_, true, _) => Body::Chunked(Chunk::Size { value: 0, digits: 0 }),
            (_, false, Some(length)) => Body::Left(length),
            (_, false, None) => Body::UntilEnd,
        }
    }

    /// How the body of a request ends: without framing there is none.
    pub fn request_body(&self) -> Body {
        if self.is_chunked {
            return Body::Chunked(Chunk::Size { value: 0, digits: 0 });
        }
        Body::Left(self.content_length.unwrap_or(0))
    }
}

/// A body being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes are missing.
    Left(u64),
    /// Chunked, and where in it.
    Chunked(Chunk),
    /// Ends with the connection.
    UntilEnd,
}

/// Position in a chunked body (RFC 9112 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the digits of a size.
    Size {
        /// What the digits say so far.
        value: u64,
        /// How many there were.
        digits: u32,
    },
    /// Behind the digits, before the line's end.
    SizeEnd(u64),
    /// In the data.
    Data(u64),
    /// In the line end behind the data.
    DataEnd,
    /// In the trailer; the length of its current line.
    Trailer(usize),
    /// Behind the last byte.
    Done,
}

impl Body {
    /// The last byte was taken. A body that ends with the connection is never finished by bytes.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Left(0) | Self::Chunked(Chunk::Done))
    }

    /// Takes what belongs to the body from the start of `bytes`: `(bytes taken, payload bytes among them)`.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, u64), BadMessage> {
        match self {
            Self::Left(left) => {
                let count = (bytes.len() as u64).min(*left);
                *left -= count;
                Ok((usize::try_from(count).unwrap_or(bytes.len()), count))
            }
            Self::UntilEnd => Ok((bytes.len(), bytes.len() as u64)),
            Self::Chunked(chunk) => chunk.take(bytes),
        }
    }
}

impl Chunk {
    fn take(&mut self, bytes: &[u8]) -> Result<(usize, u64), BadMessage> {
        let (mut taken, mut payload) = (0, 0);
        while let Some(&byte) = bytes.get(taken) {
            match *self {
                Self::Done => break,
                Self::Data(left) => {
                    let count = ((bytes.len() - taken) as u64).min(left);
                    taken += usize::try_from(count).unwrap_or(0);
                    payload += count;
                    *self = if count == left { Self::DataEnd } else { Self::Data(left - count) };
                    continue;
                }
                other => *self = other.step(byte)?,
            }
            taken += 1;
        }
        Ok((taken, payload))
    }

    /// One byte of framing.
    fn step(self, byte: u8) -> Result<Self, BadMessage> {
        match (self, byte) {
            (Self::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or(0));
                let value = value.checked_mul(16).ok_or(BadMessage("chunk size too large"))? + digit;
                Ok(Self::Size { value, digits: digits + 1 })
            }
            (Self::Size { digits: 0, .. }, _) => Err(BadMessage("chunk without a size")),
            (Self::Size { value, .. } | Self::SizeEnd(value), b'\n') => {
                Ok(if value == 0 { Self::Trailer(0) } else { Self::Data(value) })
            }
            (Self::Size { value, .. } | Self::SizeEnd(value), _) => Ok(Self::SizeEnd(value)),
            (Self::DataEnd, b'\n') => Ok(Self::Size { value: 0, digits: 0 }),
            (Self::DataEnd, b'\r') => Ok(Self::DataEnd),
            (Self::DataEnd, _) => Err(BadMessage("chunk longer than its size")),
            (Self::Trailer(0), b'\n') => Ok(Self::Done),
            (Self::Trailer(_), b'\n') => Ok(Self::Trailer(0)),
            (Self::Trailer(length), b'\r') => Ok(Self::Trailer(length)),
            (Self::Trailer(length), _) if length < HEAD_BYTES_MAX => Ok(Self::Trailer(length + 1)),
            (Self::Trailer(_), _) => Err(BadMessage("trailer too long")),
            (Self::Data(_) | Self::Done, _) => Ok(self),
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn head_is_incomplete_until_its_empty_line() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 0..whole.len() - 5 {
            assert_eq!(Head::parse(&whole[..cut]).unwrap(), None, "cut at {cut}");
        }
        let head = Head::parse(whole).unwrap().unwrap();
        assert_eq!((head.status().unwrap(), head.content_length), (200, Some(5)));
        assert_eq!(head.length_bytes, whole.len() - 5);
    }

    #[test]
    fn contradicting_lengths_are_refused() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n";
        assert_eq!(Head::parse(head), Err(BadMessage("two Content-Lengths")));
    }

    #[test]
    fn connection_close_in_any_case_is_seen() {
        let head = Head::parse(b"HTTP/1.1 200 OK\r\ncOnnection: Close\r\n\r\n").unwrap().unwrap();
        assert!(head.closes);
        assert_eq!(head.response_body(200), Body::UntilEnd);
    }

    #[test]
    fn chunked_body_is_counted_wherever_it_is_cut() {
        let wire = b"5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nT: v\r\n\r\nnext";
        for cut in 0..wire.len() {
            let mut body = Body::Chunked(Chunk::Size { value: 0, digits: 0 });
            let (taken, first) = body.take(&wire[..cut]).unwrap();
            let (rest, second) = body.take(&wire[taken..]).unwrap();
            assert!(body.is_finished(), "cut at {cut}");
            assert_eq!((first + second, taken + rest), (31, wire.len() - 4), "cut at {cut}");
        }
    }

    #[test]
    fn chunk_without_a_size_is_refused() {
        let mut body = Body::Chunked(Chunk::Size { value: 0, digits: 0 });
        assert!(body.take(b"\r\n").is_err());
    }

    #[test]
    fn chunk_size_that_does_not_fit_is_refused() {
        let mut body = Body::Chunked(Chunk::Size { value: 0, digits: 0 });
        assert!(body.take(b"fffffffffffffffff\r\n").is_err());
    }

    #[test]
    fn head_without_an_end_is_refused_at_the_limit() {
        assert!(Head::parse(&vec![b'a'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
