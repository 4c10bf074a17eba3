//! Backends: choice of a server, dialling, PROXY protocol.
