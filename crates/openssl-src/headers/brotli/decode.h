/* What OpenSSL's crypto/comp/c_brotli.c needs of Brotli's decoder. Nothing is behind it, and every call fails: see
 * src/lib.rs, HEADERS. */
#ifndef SLUICE_BROTLI_DECODE_H
#define SLUICE_BROTLI_DECODE_H

#include <stddef.h>
#include <stdint.h>

typedef struct BrotliDecoderStateStruct BrotliDecoderState;

typedef enum {
    BROTLI_DECODER_RESULT_ERROR = 0,
    BROTLI_DECODER_RESULT_SUCCESS = 1
} BrotliDecoderResult;

#define BrotliDecoderCreateInstance(...) NULL
#define BrotliDecoderDestroyInstance(...) ((void)0)
#define BrotliDecoderHasMoreOutput(...) 0
#define BrotliDecoderIsFinished(...) 0
#define BrotliDecoderDecompressStream(...) BROTLI_DECODER_RESULT_ERROR
#define BrotliDecoderDecompress(...) BROTLI_DECODER_RESULT_ERROR
#define BrotliDecoderGetErrorCode(...) 0
#define BrotliDecoderErrorString(...) "Brotli is not linked"

#endif
