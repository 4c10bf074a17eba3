//! Moving bytes between client and backend.
