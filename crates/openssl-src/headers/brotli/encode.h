/* What OpenSSL's crypto/comp/c_brotli.c needs of Brotli's encoder. Nothing is behind it, and every call fails: see
 * src/lib.rs, HEADERS. */
#ifndef SLUICE_BROTLI_ENCODE_H
#define SLUICE_BROTLI_ENCODE_H

#include <stddef.h>
#include <stdint.h>

typedef int BROTLI_BOOL;
#define BROTLI_TRUE 1
#define BROTLI_FALSE 0

typedef struct BrotliEncoderStateStruct BrotliEncoderState;

#define BROTLI_DEFAULT_QUALITY 11
#define BROTLI_DEFAULT_WINDOW 22
#define BROTLI_DEFAULT_MODE 0

#define BrotliEncoderCreateInstance(...) NULL
#define BrotliEncoderDestroyInstance(...) ((void)0)
#define BrotliEncoderHasMoreOutput(...) BROTLI_FALSE
#define BrotliEncoderCompressStream(...) BROTLI_FALSE
#define BrotliEncoderCompress(...) BROTLI_FALSE

#endif
