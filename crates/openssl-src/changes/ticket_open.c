    if (tctx->ext.ticket_key_evp_cb != NULL && sluice_ticket_open != NULL) {
        size_t opened = 0;

        sdec = OPENSSL_zalloc(eticklen);
        if (sdec == NULL) {
            ret = SSL_TICKET_FATAL_ERR_MALLOC;
            goto end;
        }
        opened = sluice_ticket_open(SSL_CONNECTION_GET_USER_SSL(s), etick, eticklen, sdec);
        if (opened == 0) {
            OPENSSL_free(sdec);
            ret = SSL_TICKET_NO_DECRYPT;
            goto end;
        }
        slen = (int)opened;
        p = sdec;
        goto sluice_opened;
    }
