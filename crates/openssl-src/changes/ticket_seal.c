    extern size_t (*sluice_ticket_seal)(SSL *, const unsigned char *, size_t, unsigned char *, size_t);

    if (tctx->ext.ticket_key_evp_cb != NULL && sluice_ticket_seal != NULL) {
        /* Name, IV, padding of a block, MAC. */
        size_t room = (size_t)slen_full + TLSEXT_KEYNAME_LENGTH + 16 + 16 + 32;
        unsigned char *ticket = OPENSSL_zalloc(room);
        size_t ticket_len = 0;

        p = senc;
        if (ticket == NULL || i2d_SSL_SESSION(s->session, &p) != slen_full) {
            OPENSSL_free(ticket);
            SSLfatal(s, SSL_AD_INTERNAL_ERROR, ERR_R_INTERNAL_ERROR);
            goto err;
        }
        ticket_len = sluice_ticket_seal(ssl, senc, (size_t)slen_full, ticket, room);
        if (ticket_len == 0 && SSL_CONNECTION_IS_TLS13(s)) {
            /* One without a length is not allowed there. */
            ok = CON_FUNC_DONT_SEND;
        } else if (ticket_len != 0 && !create_ticket_prequel(s, pkt, age_add, tick_nonce)) {
            /* It has called SSLfatal. */
        } else if (ticket_len == 0
                ? WPACKET_put_bytes_u32(pkt, 0) && WPACKET_put_bytes_u16(pkt, 0)
                : WPACKET_memcpy(pkt, ticket, ticket_len) && WPACKET_close(pkt)) {
            ok = CON_FUNC_SUCCESS;
        } else {
            SSLfatal(s, SSL_AD_INTERNAL_ERROR, ERR_R_INTERNAL_ERROR);
        }
        OPENSSL_free(ticket);
        goto err;
    }
