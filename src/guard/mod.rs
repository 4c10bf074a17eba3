//! Protection under load: what one client may take from the others, and what is given up first when there is not enough
//! for all.

mod clients;
mod handshakes;
mod pressure;
mod settings;

pub use clients::{Admission, Clients, Refusal, Seat};
pub use handshakes::{Attempt, Cost, Handshakes, TURN_TIME, Turn};
pub use pressure::{Pressure, PressureCell};
pub use settings::{ClientLimits, Rate};
