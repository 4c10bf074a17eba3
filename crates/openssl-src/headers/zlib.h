/* What OpenSSL's crypto/comp/c_zlib.c needs of zlib. Nothing is behind it, and every call fails: see src/lib.rs,
 * HEADERS. */
#ifndef SLUICE_ZLIB_H
#define SLUICE_ZLIB_H

#include <limits.h>
#include <stddef.h>

typedef unsigned long uLongf;

typedef struct {
    unsigned char *next_in;
    unsigned int avail_in;
    unsigned char *next_out;
    unsigned int avail_out;
    void *(*zalloc)(void *, unsigned int, unsigned int);
    void (*zfree)(void *, void *);
    void *opaque;
} z_stream;

#define ZLIB_VERSION "none"
#define Z_NULL 0
#define Z_OK 0
#define Z_STREAM_END 1
#define Z_STREAM_ERROR (-2)
#define Z_SYNC_FLUSH 2
#define Z_FINISH 4
#define Z_DEFAULT_COMPRESSION (-1)

#define inflateInit(...) Z_STREAM_ERROR
#define inflateInit_(...) Z_STREAM_ERROR
#define inflate(...) Z_STREAM_ERROR
#define inflateEnd(...) ((void)0)
#define deflateInit(...) Z_STREAM_ERROR
#define deflateInit_(...) Z_STREAM_ERROR
#define deflate(...) Z_STREAM_ERROR
#define deflateEnd(...) ((void)0)
#define zError(...) "zlib is not linked"

static inline int compress(unsigned char *to, uLongf *to_len, const unsigned char *from, unsigned long from_len)
{
    (void)to, (void)to_len, (void)from, (void)from_len;
    return Z_STREAM_ERROR;
}

static inline int uncompress(unsigned char *to, uLongf *to_len, const unsigned char *from, unsigned long from_len)
{
    (void)to, (void)to_len, (void)from, (void)from_len;
    return Z_STREAM_ERROR;
}

#endif
