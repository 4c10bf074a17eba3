//! Numbers and names of the interface, as OpenSSL's headers have them.

use std::ffi::{CStr, c_int, c_uint};

// openssl/core_dispatch.h.
pub(super) const OSSL_OP_KDF: c_int = 4;
pub(super) const OSSL_OP_KEYMGMT: c_int = 10;
pub(super) const OSSL_OP_KEYEXCH: c_int = 11;
pub(super) const OSSL_OP_SIGNATURE: c_int = 12;
pub(super) const OSSL_OP_KEM: c_int = 14;

pub(super) const OSSL_FUNC_KDF_NEWCTX: c_int = 1;
pub(super) const OSSL_FUNC_KDF_DUPCTX: c_int = 2;
pub(super) const OSSL_FUNC_KDF_FREECTX: c_int = 3;
pub(super) const OSSL_FUNC_KDF_RESET: c_int = 4;
pub(super) const OSSL_FUNC_KDF_DERIVE: c_int = 5;
pub(super) const OSSL_FUNC_KDF_GETTABLE_CTX_PARAMS: c_int = 7;
pub(super) const OSSL_FUNC_KDF_SETTABLE_CTX_PARAMS: c_int = 8;
pub(super) const OSSL_FUNC_KDF_GET_CTX_PARAMS: c_int = 10;
pub(super) const OSSL_FUNC_KDF_SET_CTX_PARAMS: c_int = 11;

pub(super) const OSSL_FUNC_KEM_NEWCTX: c_int = 1;
pub(super) const OSSL_FUNC_KEM_ENCAPSULATE_INIT: c_int = 2;
pub(super) const OSSL_FUNC_KEM_ENCAPSULATE: c_int = 3;
pub(super) const OSSL_FUNC_KEM_DECAPSULATE_INIT: c_int = 4;
pub(super) const OSSL_FUNC_KEM_DECAPSULATE: c_int = 5;
pub(super) const OSSL_FUNC_KEM_FREECTX: c_int = 6;

pub(super) const OSSL_FUNC_KEYEXCH_NEWCTX: c_int = 1;
pub(super) const OSSL_FUNC_KEYEXCH_INIT: c_int = 2;
pub(super) const OSSL_FUNC_KEYEXCH_DERIVE: c_int = 3;
pub(super) const OSSL_FUNC_KEYEXCH_SET_PEER: c_int = 4;
pub(super) const OSSL_FUNC_KEYEXCH_FREECTX: c_int = 5;
pub(super) const OSSL_FUNC_KEYEXCH_DUPCTX: c_int = 6;

pub(super) const OSSL_FUNC_KEYMGMT_NEW: c_int = 1;
pub(super) const OSSL_FUNC_KEYMGMT_GEN_INIT: c_int = 2;
pub(super) const OSSL_FUNC_KEYMGMT_GEN_SET_PARAMS: c_int = 4;
pub(super) const OSSL_FUNC_KEYMGMT_GEN_SETTABLE_PARAMS: c_int = 5;
pub(super) const OSSL_FUNC_KEYMGMT_GEN: c_int = 6;
pub(super) const OSSL_FUNC_KEYMGMT_GEN_CLEANUP: c_int = 7;
pub(super) const OSSL_FUNC_KEYMGMT_FREE: c_int = 10;
pub(super) const OSSL_FUNC_KEYMGMT_GET_PARAMS: c_int = 11;
pub(super) const OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS: c_int = 12;
pub(super) const OSSL_FUNC_KEYMGMT_SET_PARAMS: c_int = 13;
pub(super) const OSSL_FUNC_KEYMGMT_SETTABLE_PARAMS: c_int = 14;
pub(super) const OSSL_FUNC_KEYMGMT_HAS: c_int = 21;
pub(super) const OSSL_FUNC_KEYMGMT_VALIDATE: c_int = 22;
pub(super) const OSSL_FUNC_KEYMGMT_MATCH: c_int = 23;
pub(super) const OSSL_FUNC_KEYMGMT_IMPORT: c_int = 40;
pub(super) const OSSL_FUNC_KEYMGMT_IMPORT_TYPES: c_int = 41;
pub(super) const OSSL_FUNC_KEYMGMT_EXPORT: c_int = 42;
pub(super) const OSSL_FUNC_KEYMGMT_EXPORT_TYPES: c_int = 43;
pub(super) const OSSL_FUNC_KEYMGMT_DUP: c_int = 44;

pub(super) const OSSL_FUNC_PROVIDER_QUERY_OPERATION: c_int = 1027;
pub(super) const OSSL_FUNC_PROVIDER_RANDOM_BYTES: c_int = 1032;

pub(super) const OSSL_FUNC_SIGNATURE_NEWCTX: c_int = 1;
pub(super) const OSSL_FUNC_SIGNATURE_SIGN_INIT: c_int = 2;
pub(super) const OSSL_FUNC_SIGNATURE_SIGN: c_int = 3;
pub(super) const OSSL_FUNC_SIGNATURE_VERIFY_INIT: c_int = 4;
pub(super) const OSSL_FUNC_SIGNATURE_VERIFY: c_int = 5;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT: c_int = 8;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE: c_int = 9;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL: c_int = 10;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_SIGN: c_int = 11;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_INIT: c_int = 12;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_UPDATE: c_int = 13;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_FINAL: c_int = 14;
pub(super) const OSSL_FUNC_SIGNATURE_DIGEST_VERIFY: c_int = 15;
pub(super) const OSSL_FUNC_SIGNATURE_FREECTX: c_int = 16;
pub(super) const OSSL_FUNC_SIGNATURE_DUPCTX: c_int = 17;
pub(super) const OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS: c_int = 18;
pub(super) const OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS: c_int = 19;
pub(super) const OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS: c_int = 20;
pub(super) const OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS: c_int = 21;

pub(super) const SELECT_PRIVATE_KEY: c_int = 1;
pub(super) const SELECT_PUBLIC_KEY: c_int = 2;
pub(super) const SELECT_KEY_PAIR: c_int = SELECT_PRIVATE_KEY | SELECT_PUBLIC_KEY;

// openssl/core.h.
pub(super) const OSSL_PARAM_INTEGER: c_uint = 1;
pub(super) const OSSL_PARAM_UNSIGNED_INTEGER: c_uint = 2;
pub(super) const OSSL_PARAM_UTF8_STRING: c_uint = 4;
pub(super) const OSSL_PARAM_OCTET_STRING: c_uint = 5;
pub(super) const OSSL_PARAM_UNMODIFIED: usize = usize::MAX;

// openssl/core_names.h.
pub(super) const ALGORITHM_ID: &CStr = c"algorithm-id";
pub(super) const BITS: &CStr = c"bits";
pub(super) const DATA: &CStr = c"data";
pub(super) const DIGEST: &CStr = c"digest";
pub(super) const DIGEST_SIZE: &CStr = c"digest-size";
pub(super) const ENCODED_PUBLIC: &CStr = c"encoded-pub-key";
pub(super) const GROUP: &CStr = c"group";
pub(super) const KEY: &CStr = c"key";
pub(super) const KEYING_MATERIAL: &CStr = c"dhkem-ikm";
pub(super) const LABEL: &CStr = c"label";
pub(super) const MAX_SIZE: &CStr = c"max-size";
pub(super) const MODE: &CStr = c"mode";
pub(super) const NONCE_TYPE: &CStr = c"nonce-type";
pub(super) const PREFIX: &CStr = c"prefix";
pub(super) const PRIVATE: &CStr = c"priv";
pub(super) const PUBLIC: &CStr = c"pub";
pub(super) const SALT: &CStr = c"salt";
pub(super) const SECURITY_BITS: &CStr = c"security-bits";
pub(super) const SECURITY_CATEGORY: &CStr = c"security-category";
pub(super) const SECRET: &CStr = c"secret";
pub(super) const SEED: &CStr = c"seed";
pub(super) const SIZE: &CStr = c"size";
