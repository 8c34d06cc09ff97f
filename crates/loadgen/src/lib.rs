//! The load generator behind `make bench`: drives Socket.IO servers and reads from the system what it costs them.
//!
//! # How data flows
//!
//! [`mod@bench`] goes through the [`workload`]s, and for each through the servers, round by round. For every measurement it
//! starts the [`server`] fresh, gives the workload a [`net::Net`], one `epoll` loop that holds all connections of the
//! load, and gets a [`sample::Sample`] back. [`report`] makes tables of the medians, [`acceptance`] compares them with
//! what was promised, [`plot`] draws them.
//!
//! Inside a measurement, bytes of a server go one way: `net` reads them into one shared buffer → [`frame`] →
//! [`message`] → the workload's [`net::Load`]. An event of ours carries a [`stamp`], which [`tally`] holds against what
//! was published, member by member: a delivery that is lost, doubled, late or in the wrong room fails the measurement.
//! Nothing is allocated for a message and no JSON is parsed, so that the load generator can outrun what it measures.
//!
//! # The modules
//!
//! | file | what it is |
//! |---|---|
//! | `net` | the connections: handshake, reading, writing, leaving |
//! | `frame`, `message`, `http` | what a server sends: WebSocket frames, Socket.IO packets, HTTP responses |
//! | `stamp`, `tally`, `publishing` | events that can be distinguished, what became of them, and the closed loop that publishes them |
//! | `pinger` | a client of its own thread, whose clock the other connections can't hold up |
//! | `server`, `meter` | the measured processes, their processor time and memory |
//! | `workload` | one file for each kind of load |
//! | `cluster` | the same for servers of two nodes over Redis: its kinds, scenarios, rounds and tables |
//! | `bench`, `sample`, `acceptance`, `report`, `plot`, `machine` | rounds, results and their presentation |
#![forbid(unsafe_code)]

pub mod acceptance;
pub mod bench;
pub mod cluster;
pub mod frame;
pub mod http;
pub mod machine;
pub mod message;
pub mod meter;
pub mod net;
pub mod pinger;
pub mod plot;
pub mod publishing;
pub mod report;
pub mod sample;
pub mod server;
pub mod stamp;
pub mod tally;
pub mod workload;
