//! The Certificate message of TLS 1.3 as a server sends it (RFC 8446 section 4.4.2).

use super::super::identity::Identity;
use super::super::stapling::Staple;

/// The body of the message, which is what RFC 8879 section 4 compresses; none where that cannot be encoded.
pub(super) fn certificate(identity: &Identity, staple: Option<&Staple>) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    append_entry(&mut list, &identity.leaf().to_der().ok()?, staple)?;
    for issuer in identity.issuers() {
        append_entry(&mut list, &issuer.to_der().ok()?, None)?;
    }
    // A server's certificate_request_context is empty.
    let mut message = vec![0];
    append_vector24(&mut message, &list)?;
    Some(message)
}

/// A CertificateEntry.
fn append_entry(list: &mut Vec<u8>, certificate: &[u8], staple: Option<&Staple>) -> Option<()> {
    append_vector24(list, certificate)?;
    let mut extensions = Vec::new();
    if let Some(staple) = staple {
        // RFC 8446 section 4.4.2.1: a CertificateStatus (RFC 6066 section 8) in status_request.
        let mut status = vec![STATUS_TYPE_OCSP];
        append_vector24(&mut status, staple.der())?;
        extensions.extend_from_slice(&STATUS_REQUEST.to_be_bytes());
        append_vector16(&mut extensions, &status)?;
    }
    append_vector16(list, &extensions)
}

/// Length and content; none where it is too long for that.
fn append_vector24(output: &mut Vec<u8>, content: &[u8]) -> Option<()> {
    let [0, length @ ..] = u32::try_from(content.len()).ok()?.to_be_bytes() else { return None };
    output.extend_from_slice(&length);
    output.extend_from_slice(content);
    Some(())
}

fn append_vector16(output: &mut Vec<u8>, content: &[u8]) -> Option<()> {
    output.extend_from_slice(&u16::try_from(content.len()).ok()?.to_be_bytes());
    output.extend_from_slice(content);
    Some(())
}

const STATUS_REQUEST: u16 = 5;
const STATUS_TYPE_OCSP: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_their_length_in_front_and_end_where_that_does() {
        let mut output = Vec::new();
        assert_eq!(append_vector24(&mut output, &[7; 3]), Some(()));
        assert_eq!(append_vector16(&mut output, &[]), Some(()));
        assert_eq!(output, [0, 0, 3, 7, 7, 7, 0, 0]);
        assert_eq!(append_vector16(&mut output, &vec![0; 0x1_0000]), None);
        assert_eq!(append_vector24(&mut output, &vec![0; 0x100_0000]), None);
        assert_eq!(output.len(), 8, "nothing of what does not fit");
    }
}
