/*
 * Where the program seals and opens tickets itself; null: nowhere. Only for contexts with a ticket-key callback, which is not
 * called then.
 *
 * Seals content into ticket, which has room for room bytes; 0: no ticket, else its length.
 */
size_t (*sluice_ticket_seal)(SSL *ssl, const unsigned char *content, size_t content_len, unsigned char *ticket,
    size_t room) = NULL;
/* Opens ticket into content, which has room for ticket_len bytes; 0: it does not open, else the length of the content. */
size_t (*sluice_ticket_open)(SSL *ssl, const unsigned char *ticket, size_t ticket_len, unsigned char *content) = NULL;

