//! What a ClientHello says (RFC 8446 section 4.1.2), read from its bytes before OpenSSL sees them.
//!
//! OpenSSL looks at tickets before it calls back for the server_name, and drops the extensions that it does not know. A
//! listener decides by the name before any of the expensive cryptography, and logs want to know all that was offered:
//! hence this reader. What is malformed here is malformed to OpenSSL, too, which has the alert for it.

use std::ops::Range;

use super::failure::Failure;
use super::ja4;

/// A ClientHello, as it came. Everything in it is the client's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    body: Box<[u8]>,
    suites: Range<usize>,
    extensions: Range<usize>,
}

impl ClientHello {
    /// Reads the body of the message; none where its form is not that of a ClientHello.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: body, at: 0 };
        reader.skip(VERSION_LEN + RANDOM_LEN)?;
        reader.vector(LengthOf::One)?; // legacy_session_id
        let suites = reader.vector(LengthOf::Two).filter(|suites| suites.len().is_multiple_of(2))?;
        reader.vector(LengthOf::One)?; // legacy_compression_methods
        // RFC 5246 section 7.4.1.2: a hello may end here.
        let extensions = if reader.is_at_end() { reader.at..reader.at } else { reader.vector(LengthOf::Two)? };
        let is_whole = reader.is_at_end() && Extensions::is_well_formed(body.get(extensions.clone())?);
        is_whole.then(|| Self { body: body.into(), suites, extensions })
    }

    /// The name that the client asks for, in its own spelling: upper case and a dot at the end are possible. None where
    /// it asks for none, or for one that is not printable ASCII.
    pub fn server_name(&self) -> Option<&str> {
        let mut reader = Reader { bytes: self.extension(extension::SERVER_NAME)?, at: 0 };
        let list = reader.vector(LengthOf::Two)?;
        let mut reader = Reader { bytes: reader.bytes.get(list)?, at: 0 };
        // RFC 6066 section 3: a list of which only one kind of entry was ever defined, host_name.
        (reader.byte()? == HOST_NAME).then_some(())?;
        let name = reader.vector(LengthOf::Two)?;
        let name = std::str::from_utf8(reader.bytes.get(name)?).ok()?;
        (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())).then_some(name)
    }

    /// The versions on offer, in the client's order and without GREASE (RFC 8701); 0x0304 is TLS 1.3.
    pub fn versions(&self) -> impl Iterator<Item = u16> + Clone {
        let list = self.list(extension::SUPPORTED_VERSIONS, LengthOf::One);
        // RFC 8446 section 4.2.1: without the extension the field tells, up to TLS 1.2.
        let legacy = if list.is_none() { self.body.get(..VERSION_LEN) } else { None };
        code_points(list.or(legacy).unwrap_or_default()).filter(|code| !is_grease(*code))
    }

    /// The cipher suites on offer, in the client's order, as their code points.
    pub fn suites(&self) -> impl Iterator<Item = u16> + Clone {
        code_points(self.body.get(self.suites.clone()).unwrap_or_default())
    }

    /// The key-exchange groups on offer (RFC 8446 section 4.2.7); none where the client does not say.
    pub fn groups(&self) -> Option<impl Iterator<Item = u16> + Clone> {
        self.list(extension::SUPPORTED_GROUPS, LengthOf::Two).map(code_points)
    }

    /// The signatures that the client can verify (RFC 8446 section 4.2.3); none where it does not say.
    pub fn signature_algorithms(&self) -> Option<impl Iterator<Item = u16> + Clone> {
        self.list(extension::SIGNATURE_ALGORITHMS, LengthOf::Two).map(code_points)
    }

    /// The ALPN protocols on offer, in the client's order (RFC 7301 section 3.1).
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        alpn_names(self.list(extension::ALPN, LengthOf::Two).unwrap_or_default())
    }

    /// The algorithms with which the client takes a compressed certificate (RFC 8879 section 3), in its order; none where
    /// it takes none.
    pub fn certificate_compressions(&self) -> Option<impl Iterator<Item = u16> + Clone> {
        self.list(extension::COMPRESS_CERTIFICATE, LengthOf::One).map(code_points)
    }

    /// Whether the client asks for an OCSP response (RFC 6066 section 8).
    pub fn asks_for_status(&self) -> bool {
        self.extension(extension::STATUS_REQUEST).is_some_and(|body| body.first() == Some(&STATUS_TYPE_OCSP))
    }

    /// Whether the client wants to resume a session: with a pre-shared key (RFC 8446 section 4.2.11) or a ticket (RFC 5077
    /// section 3.2).
    pub fn offers_session(&self) -> bool {
        let has_ticket = self.extension(extension::SESSION_TICKET).is_some_and(|ticket| !ticket.is_empty());
        has_ticket || self.extension(extension::PRE_SHARED_KEY).is_some()
    }

    /// The types of the extensions, in the client's order, GREASE included.
    pub fn extension_types(&self) -> impl Iterator<Item = u16> {
        self.extensions().map(|(kind, _)| kind)
    }

    /// The JA4 fingerprint: what clients of one make have in common. Computed anew with each call, by two hashes.
    pub fn ja4(&self) -> String {
        ja4::fingerprint(self)
    }

    /// The body of an extension.
    pub(super) fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions().find_map(|(found, body)| (found == kind).then_some(body))
    }

    fn extensions(&self) -> Extensions<'_> {
        Extensions(self.body.get(self.extensions.clone()).unwrap_or_default())
    }

    /// The content of an extension that is one vector.
    fn list(&self, kind: u16, length: LengthOf) -> Option<&[u8]> {
        let mut reader = Reader { bytes: self.extension(kind)?, at: 0 };
        let list = reader.vector(length)?;
        reader.bytes.get(list)
    }
}

/// Finds the ClientHellos in the records of a handshake's beginning: the first one, and in TLS 1.3 the one with which the
/// client answers a HelloRetryRequest.
#[derive(Default)]
pub(super) struct Hellos {
    /// What has come of a message that is not yet whole.
    fragments: Vec<u8>,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    /// The first one has not come yet.
    #[default]
    First,
    /// It has; the body of its server_name extension.
    Again(Option<Box<[u8]>>),
    /// Nothing that comes is looked at any more.
    Over,
}

/// What a record has in it of the first ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A part that is not the last.
    Cut,
    /// The last part.
    Whole(ClientHello),
    /// Nothing, or something that is none: OpenSSL has the alert for it.
    Other,
}

impl Hellos {
    /// Takes the next record, whole, up to the first ClientHello.
    ///
    /// # Errors
    /// [`Failure::SecondClientHello`], where more than the first one is in its records: nobody may go on before our answer.
    pub(super) fn first(&mut self, record: &[u8]) -> Result<First, Failure> {
        let Some(fragment) = handshake_fragment(record) else { return Ok(First::Other) };
        // Clients nearly always send it in one record: it is read where it lies then.
        let is_continued = !self.fragments.is_empty();
        if is_continued {
            self.fragments.extend_from_slice(fragment);
        }
        let hello = match whole_message(if is_continued { &self.fragments } else { fragment }) {
            Message::Whole(_, [_, ..]) => return Err(Failure::SecondClientHello("comes before our answer")),
            Message::Whole(body, []) => ClientHello::parse(body),
            Message::Other | Message::TooLong => None,
            Message::Cut => {
                if !is_continued {
                    self.fragments.extend_from_slice(fragment);
                }
                return Ok(First::Cut);
            }
        };
        self.fragments = Vec::new();
        self.stage = match &hello {
            Some(hello) => Stage::Again(hello.extension(extension::SERVER_NAME).map(Into::into)),
            None => Stage::Over,
        };
        Ok(hello.map_or(First::Other, First::Whole))
    }

    /// Takes a record behind the first ClientHello of a TLS 1.3 handshake, before OpenSSL sees it. By the name of the
    /// first one it was decided what the client has to prove; the second one must not ask for another.
    ///
    /// # Errors
    /// [`Failure::SecondClientHello`].
    pub(super) fn again(&mut self, record: &[u8]) -> Result<(), Failure> {
        let Stage::Again(server_name) = &self.stage else { return Ok(()) };
        // What stands between the two is protected, or ChangeCipherSpec (RFC 8446 section 5).
        let Some(fragment) = handshake_fragment(record) else { return Ok(()) };
        self.fragments.extend_from_slice(fragment);
        match whole_message(&self.fragments) {
            Message::Cut => return Ok(()),
            Message::Other => {}
            Message::TooLong => return Err(Failure::SecondClientHello("is too long")),
            Message::Whole(body, _) => {
                let hello = ClientHello::parse(body).ok_or(Failure::SecondClientHello("is malformed"))?;
                // RFC 8446 section 4.1.2: it is the first one again, but for extensions that server_name is not among.
                if hello.extension(extension::SERVER_NAME) != server_name.as_deref() {
                    return Err(Failure::SecondClientHello("asks for another server_name"));
                }
            }
        }
        // RFC 8446 section 4.1.4: there is no third one.
        (self.fragments, self.stage) = (Vec::new(), Stage::Over);
        Ok(())
    }
}

/// What a record carries of handshake messages; none where it is of another type.
fn handshake_fragment(record: &[u8]) -> Option<&[u8]> {
    record.get(RECORD_HEADER_LEN..).filter(|_| record.first() == Some(&HANDSHAKE))
}

/// What the first bytes of a handshake are.
enum Message<'a> {
    /// A ClientHello: its body, and what follows it.
    Whole(&'a [u8], &'a [u8]),
    /// Not yet whole.
    Cut,
    /// A ClientHello that is longer than OpenSSL would read.
    TooLong,
    /// No ClientHello.
    Other,
}

fn whole_message(bytes: &[u8]) -> Message<'_> {
    let Some((&[kind, high, middle, low], rest)) = bytes.split_first_chunk() else { return Message::Cut };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if kind != CLIENT_HELLO {
        return Message::Other;
    }
    if length > CLIENT_HELLO_LEN_MAX {
        return Message::TooLong;
    }
    rest.split_at_checked(length).map_or(Message::Cut, |(body, behind)| Message::Whole(body, behind))
}

/// Whether this is one of the values that clients throw in so that nobody relies on the known ones (RFC 8701).
pub(super) fn is_grease(code: u16) -> bool {
    let [high, low] = code.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// The names of an ALPN list: each behind a length byte (RFC 7301 section 3.1), well-formed or not.
pub(super) fn alpn_names(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = wire.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        wire = rest;
        Some(name)
    })
}

fn code_points(list: &[u8]) -> impl Iterator<Item = u16> + Clone {
    list.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair))
}

/// The extensions of a block, with their types; ends where the form ends.
struct Extensions<'a>(&'a [u8]);

impl Extensions<'_> {
    /// Whether the form goes on to the end of the block.
    fn is_well_formed(block: &[u8]) -> bool {
        let mut extensions = Extensions(block);
        while extensions.next().is_some() {}
        extensions.0.is_empty()
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d], rest) = self.0.split_first_chunk()?;
        let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([c, d])))?;
        self.0 = rest;
        Some((u16::from_be_bytes([a, b]), body))
    }
}

/// How many bytes hold the length of a vector (RFC 8446 section 3.4).
#[derive(Clone, Copy)]
enum LengthOf {
    One,
    Two,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn skip(&mut self, len: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        Some(std::mem::replace(&mut self.at, end)..end)
    }

    fn byte(&mut self) -> Option<u8> {
        let at = self.skip(1)?.start;
        self.bytes.get(at).copied()
    }

    fn vector(&mut self, length: LengthOf) -> Option<Range<usize>> {
        let mut len = usize::from(self.byte()?);
        if matches!(length, LengthOf::Two) {
            len = len << 8 | usize::from(self.byte()?);
        }
        self.skip(len)
    }
}

/// Longest ClientHello that is read here: no handshake may be longer. A longer one is left to OpenSSL, which refuses it.
const CLIENT_HELLO_LEN_MAX: usize = super::HANDSHAKE_BYTES_MAX;

const RECORD_HEADER_LEN: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const VERSION_LEN: usize = 2;
const RANDOM_LEN: usize = 32;
const HOST_NAME: u8 = 0;
const STATUS_TYPE_OCSP: u8 = 1;

/// Code points of extensions (RFC 8446 section 4.2, and those that it refers to).
pub(super) mod extension {
    pub(in crate::tls) const SERVER_NAME: u16 = 0;
    pub(in crate::tls) const STATUS_REQUEST: u16 = 5;
    pub(in crate::tls) const SUPPORTED_GROUPS: u16 = 10;
    pub(in crate::tls) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(in crate::tls) const ALPN: u16 = 16;
    pub(in crate::tls) const COMPRESS_CERTIFICATE: u16 = 27;
    pub(in crate::tls) const SESSION_TICKET: u16 = 35;
    pub(in crate::tls) const PRE_SHARED_KEY: u16 = 41;
    pub(in crate::tls) const SUPPORTED_VERSIONS: u16 = 43;
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    /// The body of a ClientHello with these suites and extensions.
    pub(in crate::tls) fn body(suites: &[u16], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        for (kind, body) in extensions {
            block.extend([&kind.to_be_bytes()[..], &len16(body), body].concat());
        }
        let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        [&[3, 3][..], &[7; 32], &[0], &len16(&suites), &suites, &[1, 0], &len16(&block), &block].concat()
    }

    /// A list of code points behind its length in two bytes.
    pub(in crate::tls) fn list(codes: &[u16]) -> Vec<u8> {
        let bytes: Vec<u8> = codes.iter().flat_map(|code| code.to_be_bytes()).collect();
        [&len16(&bytes)[..], &bytes].concat()
    }

    /// The extension body that asks for a name.
    pub(in crate::tls) fn name(name: &str) -> Vec<u8> {
        let entry = [&[0][..], &len16(name.as_bytes()), name.as_bytes()].concat();
        [&len16(&entry)[..], &entry].concat()
    }

    fn len16(bytes: &[u8]) -> [u8; 2] {
        u16::try_from(bytes.len()).unwrap().to_be_bytes()
    }

    fn usual() -> Vec<u8> {
        let versions = [&[6][..], &[0x1a, 0x1a, 3, 4, 3, 3]].concat();
        let alpn = [&[0, 12, 2][..], b"h2", &[8], b"http/1.1"].concat();
        body(
            &[0x1301, 0xc02b],
            &[
                (0, &name("a.Example")),
                (0x6a6a, &[]),
                (10, &list(&[29, 23])),
                (13, &list(&[0x0403])),
                (16, &alpn),
                (43, &versions),
            ],
        )
    }

    #[test]
    fn hello_says_what_it_offers() {
        let hello = ClientHello::parse(&usual()).unwrap();
        assert_eq!(hello.server_name(), Some("a.Example"));
        assert_eq!(hello.versions().collect::<Vec<_>>(), [0x0304, 0x0303]);
        assert_eq!(hello.suites().collect::<Vec<_>>(), [0x1301, 0xc02b]);
        assert_eq!(hello.groups().unwrap().collect::<Vec<_>>(), [29, 23]);
        assert_eq!(hello.signature_algorithms().unwrap().collect::<Vec<_>>(), [0x0403]);
        assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        assert_eq!(hello.extension_types().collect::<Vec<_>>(), [0, 0x6a6a, 10, 13, 16, 43]);
    }

    #[test]
    fn hello_without_extensions_offers_the_version_of_its_field() {
        let mut body = body(&[0xc02b], &[]);
        body.truncate(body.len() - 2);
        let hello = ClientHello::parse(&body).unwrap();
        assert_eq!(hello.versions().collect::<Vec<_>>(), [0x0303]);
        assert_eq!((hello.server_name(), hello.alpn().count()), (None, 0));
        assert!(hello.groups().is_none() && hello.signature_algorithms().is_none());
    }

    #[test]
    fn hello_with_a_ticket_or_a_pre_shared_key_offers_a_session() {
        let offers = |extensions: &[(u16, &[u8])]| ClientHello::parse(&body(&[], extensions)).unwrap().offers_session();
        assert!(offers(&[(35, b"ticket")]) && offers(&[(41, &[])]));
        assert!(!offers(&[(35, &[])]) && !offers(&[(10, &[])]));
    }

    #[test]
    fn hello_says_what_certificate_it_takes() {
        let hello = |extensions: &[(u16, &[u8])]| ClientHello::parse(&body(&[], extensions)).unwrap();
        let algorithms = |body: &[u8]| Some(hello(&[(27, body)]).certificate_compressions()?.collect::<Vec<_>>());
        assert_eq!(algorithms(&[4, 0, 2, 0, 1]), Some(vec![2, 1]));
        assert_eq!(algorithms(&[4, 0, 2, 0]), None, "cut short");
        assert_eq!(algorithms(&[]), None);
        assert!(hello(&[]).certificate_compressions().is_none());
        assert!(hello(&[(5, &[1, 0, 0, 0, 0])]).asks_for_status());
        assert!(!hello(&[(5, &[2])]).asks_for_status() && !hello(&[(5, &[])]).asks_for_status());
        assert!(!hello(&[]).asks_for_status());
    }

    #[test]
    fn hello_that_is_cut_anywhere_is_none() {
        let whole = usual();
        // 43 bytes are a hello without extensions: before that, and between there and the end, nothing is.
        let bare = 2 + 32 + 1 + 2 + 4 + 2;
        for len in (0..whole.len()).filter(|len| *len != bare) {
            assert_eq!(ClientHello::parse(&whole[..len]), None, "{len}");
        }
        assert_eq!(ClientHello::parse(&[&whole[..], &[0]].concat()), None);
    }

    #[test]
    fn server_name_that_is_no_printable_host_name_is_none() {
        let cases: [&[u8]; 6] = [&[], &[0], &[0, 0], &[0, 4, 1, 0, 1, b'a'], &[0, 4, 0, 0, 1, 0], &[0, 3, 0, 0, 0]];
        for case in cases {
            assert_eq!(ClientHello::parse(&body(&[], &[(0, case)])).unwrap().server_name(), None, "{case:?}");
        }
    }

    fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
        [&[kind, 3, 1][..], &len16(fragment), fragment].concat()
    }

    fn message(body: &[u8]) -> Vec<u8> {
        [&[1, 0][..], &len16(body), body].concat()
    }

    /// What the records have in them, one after the other, up to the first that is not cut.
    fn first_of(hellos: &mut Hellos, records: &[Vec<u8>]) -> First {
        let (last, before) = records.split_last().unwrap();
        assert!(before.iter().all(|record| hellos.first(record).unwrap() == First::Cut));
        hellos.first(last).unwrap()
    }

    #[test]
    fn hello_is_found_in_one_record_and_in_many() {
        let expected = First::Whole(ClientHello::parse(&usual()).unwrap());
        assert_eq!(first_of(&mut Hellos::default(), &[record(22, &message(&usual()))]), expected);
        for len in [1, 3, 100] {
            let records: Vec<_> = message(&usual()).chunks(len).map(|piece| record(22, piece)).collect();
            assert_eq!(first_of(&mut Hellos::default(), &records), expected, "{len}");
        }
    }

    #[test]
    fn anything_else_than_a_hello_ends_the_search() {
        for first in [record(21, &[2, 40]), record(22, &[2, 0, 0, 1, 0]), record(22, &[1, 0xff, 0, 0, 0])] {
            assert_eq!(Hellos::default().first(&first).unwrap(), First::Other, "{first:?}");
        }
    }

    /// What is said of a second hello, which comes in these pieces behind a first one for `a.Example`.
    fn second(records: &[Vec<u8>]) -> Result<(), Failure> {
        let mut hellos = Hellos::default();
        assert!(matches!(hellos.first(&record(22, &message(&usual()))), Ok(First::Whole(_))));
        records.iter().try_for_each(|record| hellos.again(record))
    }

    #[test]
    fn second_hello_must_ask_for_the_name_of_the_first() {
        let asking = |bytes: &[u8]| message(&body(&[0x1301], &[(10, &list(&[23])), (0, bytes)]));
        let [same, other] = ["a.Example", "b.example"].map(|text| asking(&name(text)));
        let silent = message(&body(&[0x1301], &[]));
        assert!(second(&[record(22, &same)]).is_ok());
        for changed in [&other, &silent, &asking(&name("a.example")), &asking(&[])] {
            assert!(matches!(second(&[record(22, changed)]), Err(Failure::SecondClientHello(_))), "{changed:?}");
        }
        // In pieces, with what may stand between the two hellos before and between them.
        let pieces = |whole: &[u8]| -> Vec<_> {
            let between = [record(20, &[1]), record(23, &[0; 20])];
            whole.chunks(7).flat_map(|piece| [between[0].clone(), record(22, piece), between[1].clone()]).collect()
        };
        assert!(second(&pieces(&same)).is_ok());
        assert!(matches!(second(&pieces(&other)), Err(Failure::SecondClientHello(_))));
    }

    #[test]
    fn second_hello_that_begins_in_the_record_of_the_first_is_refused() {
        for len in 1..message(&usual()).len() {
            let both = [&message(&usual())[..], &message(&usual())[..len]].concat();
            let refused = Hellos::default().first(&record(22, &both));
            assert!(matches!(refused, Err(Failure::SecondClientHello(_))), "{len}");
        }
    }

    #[test]
    fn second_hello_that_cannot_be_read_is_refused_and_other_messages_are_not() {
        let malformed = message(&usual()[..40]);
        assert!(matches!(second(&[record(22, &malformed)]), Err(Failure::SecondClientHello("is malformed"))));
        assert!(matches!(second(&[record(22, &[1, 0xff, 0, 0])]), Err(Failure::SecondClientHello("is too long"))));
        let finished = record(22, &[20, 0, 0, 1, 7]);
        assert!(second(&[finished, record(22, &malformed)]).is_ok(), "OpenSSL's to refuse");
    }

    #[test]
    fn grease_is_told_from_code_points() {
        assert!([0x0a0a, 0x1a1a, 0xfafa].into_iter().all(is_grease));
        assert!(![0x0a1a, 0x1301, 0x0a0b, 0x0000].into_iter().any(is_grease));
    }

    #[test]
    fn alpn_list_that_is_cut_short_ends_at_the_cut() {
        assert_eq!(alpn_names(b"\x02h2\x08http").collect::<Vec<_>>(), [b"h2"]);
        assert_eq!(alpn_names(b"").count(), 0);
    }
}
