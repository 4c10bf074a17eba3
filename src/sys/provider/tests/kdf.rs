//! How a test has something derived.

use super::super::number::{OSSL_PARAM_OCTET_STRING, OSSL_PARAM_UTF8_STRING};
use super::*;

/// Derives `length` bytes, in one go or in a copy of a context that was told everything beforehand; none where OpenSSL refuses.
/// `params` have their end.
pub(super) fn derive(
    algorithm: &CStr,
    provider: &CStr,
    params: &[ffi::OSSL_PARAM],
    beforehand: bool,
    length: usize,
) -> Option<Vec<u8>> {
    let mut out = vec![0; length];
    // SAFETY: the names end with NUL, the list with its end; what is fetched and made is freed.
    unsafe {
        let mut context = context(algorithm, provider);
        let now = if beforehand {
            let set = EVP_KDF_CTX_set_params(context, params.as_ptr());
            let copy = EVP_KDF_CTX_dup(context);
            ffi::EVP_KDF_CTX_free(context);
            context = copy;
            if set != 1 {
                ffi::EVP_KDF_CTX_free(context);
                return None;
            }
            ptr::null()
        } else {
            params.as_ptr()
        };
        let derived = ffi::EVP_KDF_derive(context, out.as_mut_ptr(), out.len(), now);
        if derived == 1 {
            EVP_KDF_CTX_reset(context);
            let again = ffi::EVP_KDF_derive(context, out.clone().as_mut_ptr(), out.len(), ptr::null());
            assert_ne!(again, 1, "a context that was reset knows nothing");
        }
        ffi::EVP_KDF_CTX_free(context);
        (derived == 1).then_some(out)
    }
}

/// Each of these parameters is refused as a value of another type.
pub(super) fn refuses_wrong_types(algorithm: &CStr, names: &[&'static CStr]) {
    for name in names {
        let mut value = *b"SHA2-256";
        let params = [
            ffi::OSSL_PARAM {
                key: name.as_ptr(),
                data_type: if *name == c"digest" { OSSL_PARAM_OCTET_STRING } else { OSSL_PARAM_UTF8_STRING },
                data: value.as_mut_ptr().cast(),
                data_size: value.len(),
                return_size: 0,
            },
            param::END,
        ];
        // SAFETY: as above.
        unsafe {
            let context = context(algorithm, OURS);
            assert_ne!(EVP_KDF_CTX_set_params(context, params.as_ptr()), 1, "{name:?}");
            ffi::EVP_KDF_CTX_free(context);
        }
    }
}

fn context(algorithm: &CStr, provider: &CStr) -> *mut ffi::EVP_KDF_CTX {
    install().unwrap();
    // SAFETY: the names end with NUL; the context has its own reference to what is freed here.
    unsafe {
        let kdf = ffi::EVP_KDF_fetch(ptr::null_mut(), algorithm.as_ptr(), provider.as_ptr());
        assert!(!kdf.is_null());
        let context = ffi::EVP_KDF_CTX_new(kdf);
        ffi::EVP_KDF_free(kdf);
        context
    }
}
