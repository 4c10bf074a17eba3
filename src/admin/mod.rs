//! Administration over HTTP: metrics, probes, status, reload and drain.
