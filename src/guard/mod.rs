//! Protection under load: what one client may take from the others, and what is given up first when there is not enough
//! for all.

mod clients;
mod settings;

pub use clients::{Admission, Clients, Refusal, Seat};
pub use settings::{ClientLimits, Rate};
