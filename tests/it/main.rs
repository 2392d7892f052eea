//! All integration tests in one binary, because linking is the slow part. Each starts the real gateway over TLS on port 0 and
//! talks to it with the real curl.

mod admin;
mod agreement;
mod applications;
mod architecture;
mod bearer;
mod browser;
mod cli;
mod config;
mod contract;
mod crowds;
mod edge;
mod exchange;
mod fetch;
mod gateway;
mod grpc;
mod hostile;
mod oidc;
mod options;
mod oracle;
mod own_tokens;
mod policy;
mod process;
mod providers;
mod redis_server;
mod scanners;
mod servers;
mod sessions;
mod shared_log;
mod shared_store;
mod step_up;
mod support;
mod tokens;
mod tools;
mod upstreams;
mod wire;
