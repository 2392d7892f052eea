//! Portcullis.

pub mod clock;
pub mod config;
pub mod policy;
