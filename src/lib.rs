//! Portcullis: an authentication gateway in front of applications that nobody can change.
//!
//! # The way of a request
//!
//! Seven stops, in [`proxy`]'s one function: **accept** (`server`) → **read the head** (`policy`) → **find the route**
//! (`policy`) → **learn who is calling** (`authn`, from `session`'s memory) → **decide** (`policy`) → **act** (`proxy`,
//! `upstream`, or the gateway's own answer) → **record** (`proxy`).
//!
//! # The rooms, and what each does not know
//!
//! | room | holds | does not know |
//! |---|---|---|
//! | [`policy`] | who may do what; pure | IO, time, where identities come from |
//! | [`memory`] | much, bounded | what is remembered |
//! | [`places`] | a worker's last of a kind, bounded | what is remembered, whether it holds |
//! | [`budget`] | budgets of failures, and whose they are | what failed |
//! | [`causes`] | an error with its causes, on one line | any error |
//! | [`seats`] | places of connections: who gives theirs up | what is asked |
//! | [`sparing`] | how often something is said | what is said |
//! | [`small`] | small answers without TLS, on one type of connection | what is answered |
//! | [`seldom`] | what nearly always has nothing to say, beside what is polled often | what is waited for |
//! | [`task`] | work that goes on beside requests, of one type | what is done |
//! | [`private`] | files for their owner alone | what is in them |
//! | [`stamp`] | what a changed file is known by | what is in it |
//! | [`socket`] | a TCP connection, written to as cheaply as can be | what is sent |
//! | [`reach`] | the first of several ways that leads somewhere | what is said there |
//! | [`trust`] | whom to trust over TLS, and the certificate shown | what is said there |
//! | [`fetch`] | documents of other parties, bounded | what they mean |
//! | [`session`] | records, stores, local memory, revocation | HTTP beyond a cookie's value; routes |
//! | [`token`] | tokens: keys, signatures, claims, what was verified | routes; HTTP beyond fetching keys |
//! | [`authn`] | credential → who is calling | what a caller may do |
//! | [`login`] | signing in and out, local users, pages | upstreams |
//! | [`upstream`] | connections to applications | identities, headers |
//! | [`proxy`] | the seven stops, headers, answers, records | how sessions are kept; TLS |
//! | [`server`] | listeners, TLS, workers, drain | what a request means |
//! | [`admin`] | health, readiness, metrics, the sessions API: a listener of its own | the public listener |
//! | [`config`] | text → [`config::Config`], every mistake at once | the disk, tokio, hyper, rustls |
//! | [`startup`] | configuration → running gateway | request handling |
//! | [`cli`] | commands | – |
//!
//! Each may use those that stand above it here, never the other way (`tests/it/architecture.rs` holds the table).
//!
//! # What is exchanged, and what stays
//!
//! A request pins one [`proxy::Worker`] and with it one [`proxy::Runtime`], which is all that was made from one configuration.
//! [`startup::Gateway::reload`] makes another beside it, whole, and puts it into [`proxy::Current`] and into each worker's
//! [`proxy::Place`]. Sessions, the directory of users, throttles, keys and counters are not a runtime's and go on. Who calls, with roles as
//! bits and header lines, is remembered by the worker and by the runtime's tokens, and is never handed to another.
//!
//! # Invariants, as absences
//!
//! - Nothing is forwarded without a [`policy::Permit`], and only [`policy::decide`] makes one.
//! - No path is rewritten: what policy matched is what the application receives, byte for byte.
//! - No store is asked on a public route, and no outage signs anybody out: *could not ask* is an error, not an answer.
//! - No session id is stored, logged or shown: only its keyed hash is.

pub mod admin;
pub mod authn;
pub mod budget;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counter;
pub mod fetch;
/// What must hold whatever comes: asked by `fuzz/`, and by the tests.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[path = "../fuzz/invariants/mod.rs"]
pub mod invariants;
pub mod login;
pub mod memory;
pub mod places;
pub mod policy;
pub mod private;
pub mod proxy;
pub mod reach;
pub mod seats;
pub mod seldom;
pub mod server;
pub mod session;
pub mod small;
pub mod socket;
pub mod sparing;
pub mod stamp;
pub mod startup;
pub mod task;
pub mod token;
pub mod trust;
pub mod upstream;
pub mod whoami;
