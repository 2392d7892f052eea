//! Asking the running gateway, for commands that change what it keeps. One decision: such a command goes through the operator's
//! listener and never to the store, because only the gateway tells its nodes and its open connections what happened.
//! Knows nothing of what is asked.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use serde_json::Value;

use crate::fetch::{Address, Client, Settings};
use crate::startup;

use super::{BAD_INPUT, CANNOT_START, chain, load, say};

/// Longer than a revocation waits for silent nodes with the longest grace that can be configured.
const PATIENCE: Duration = Duration::from_secs(3_700);

/// The operator's listener of a configuration.
pub(super) struct Operator {
    address: SocketAddr,
    token: String,
}

impl Operator {
    /// Of the gateway that runs from this file; what is missing is said.
    pub(super) fn of(file: &Path) -> Result<Operator, ExitCode> {
        let config = load::load(file).map_err(|error| {
            say(&error.to_string());
            ExitCode::from(BAD_INPUT)
        })?;
        let Some(admin) = &config.server.admin else {
            say("portcullis: this needs the operator's listener; write `admin = \"127.0.0.1:9090\"` in [server]");
            return Err(ExitCode::from(BAD_INPUT));
        };
        let mut address = admin.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
                SocketAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            });
        }
        match startup::operator_token(&config) {
            Ok(Some(token)) => Ok(Operator { address, token }),
            Ok(None) => {
                say(
                    "portcullis: this needs the operator's token; write `admin_token = { file = \"PATH\" }` in [server]",
                );
                Err(ExitCode::from(BAD_INPUT))
            }
            Err(error) => {
                say(&format!("portcullis: {}", chain(&error)));
                Err(ExitCode::from(CANNOT_START))
            }
        }
    }

    /// Ask for a path, with a body where there is one, and print the answer; what is refused is said.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ExitCode> {
        let failed = |text: String| {
            say(&format!("portcullis: {text}"));
            ExitCode::from(CANNOT_START)
        };
        let address = Address::parse(&format!("http://{}{path}", self.address), true)
            .map_err(|error| failed(format!("the operator's listener at {}: {error}", self.address)))?;
        let request = Request::builder()
            .method(method)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default())
            .map_err(|error| failed(error.to_string()))?;
        let client = Client::new(&Settings { timeout: PATIENCE, ..Settings::default() })
            .map_err(|error| failed(chain(&error)))?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.map_err(|error| failed(error.to_string()))?;
        let document = tokio
            .block_on(client.send(&address, request))
            .map_err(|error| failed(format!("is the gateway running? {}", chain(&error))))?;
        let said = String::from_utf8_lossy(&document.body);
        if !document.status.is_success() {
            return Err(failed(format!("{}: {}", document.status.as_u16(), said.trim_end())));
        }
        serde_json::from_str(&said).map_err(|error| failed(error.to_string()))
    }
}
