//! Configuration: TOML text to resolved settings, with errors that point at the line.
