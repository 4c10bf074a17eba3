//! Counters of the workers, the catalogue of every metric, and their exposition.

pub mod access;
pub mod audit;
pub mod catalog;
mod cell;
mod configuration;
pub mod diagnostics;
mod expiry;
pub mod exposition;
pub mod kernel_tls;
mod label;
mod memory;
pub mod output;
mod process;
mod reload;
mod stapling;
mod ticket;
mod worker;

pub use cell::{ByLabel, Counter, Gauge, Label, label_enum};
pub use configuration::Configuration;
pub use expiry::{EXPIRY_SHOWN_MAX, EndingView, ExpiryKind, ExpiryView};
pub use label::{
    AcceptError, CertificateCompression, ClientCertificate, CloseReason, DialResult, Direction, FailureReason,
    KeepReason, Kind, LogName, LogResult, ProxyHeader, RefusalReason, RelayPath, Version,
};
pub use memory::{MemoryMetrics, MemoryStep};
pub use process::{
    DrainView, GenerationCell, KernelTlsView, ListenerView, Phase, PhaseCell, Process, PulseCell, SnapshotView,
    WorkerState, WorkerStateCell, WorkerView,
};
pub use reload::{LastReload, ReloadResult, ReloadView, SwapResult};
pub use stapling::{OcspFetch, StapleResult, StapleState, StaplingMetrics};
pub use ticket::{
    KeySource, RingEvent, RingFacts, RingStanding, RingStatus, RingTelemetry, TicketCounters, TicketIssue,
    TicketOpening,
};
pub use worker::WorkerMetrics;
