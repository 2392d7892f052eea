//! One exchange: connect, ask, read. One decision: every step runs against the same deadline, so that a server can be slow
//! only once. Knows nothing of what is asked for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::reach::{self, AnyLine};
use crate::task::task;
use crate::trust::{ClientTlsError, client_config, server_name, shown_until};

use super::{Address, Document, FetchError, Settings, Step};

/// Bytes of an answer's head.
const HEAD_BYTES: usize = 64 * 1024;

/// How we show who asks.
#[derive(Clone, Copy)]
pub enum Credential<'c> {
    /// Not at all, or in the form.
    None,
    /// `client_secret_basic`: both are written as in a form first (RFC 6749 §2.3.1), so that a colon in them does no harm.
    Basic {
        /// The name.
        name: &'c str,
        /// The secret.
        secret: &'c str,
    },
    /// An access token (RFC 6750 §2.1).
    Bearer(&'c str),
}

/// Asks.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    most_bytes: usize,
    timeout: Duration,
}

impl Client {
    /// A client with this trust.
    ///
    /// # Errors
    /// [`ClientTlsError`] of its files.
    pub fn new(settings: &Settings) -> Result<Client, ClientTlsError> {
        let tls = TlsConnector::from(Arc::new(client_config(&settings.tls)?));
        Ok(Client { tls, most_bytes: settings.most_bytes, timeout: settings.timeout })
    }

    /// When the certificate ends that servers are shown.
    pub fn shown_until(&self) -> Option<SystemTime> {
        shown_until(self.tls.config())
    }

    /// GET.
    ///
    /// # Errors
    /// [`FetchError`], which says at what step.
    pub async fn get(&self, address: &Address, credential: Credential<'_>) -> Result<Document, FetchError> {
        self.send(address, request(Method::GET, None, credential)).await
    }

    /// POST a form.
    ///
    /// # Errors
    /// [`FetchError`], which says at what step.
    pub async fn post(
        &self,
        address: &Address,
        fields: &[(&str, &str)],
        credential: Credential<'_>,
    ) -> Result<Document, FetchError> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(address, request(Method::POST, Some(form), credential)).await
    }

    /// Send a request that somebody else wrote; its target and `Host` are the address's.
    ///
    /// # Errors
    /// [`FetchError`], which says at what step.
    pub async fn send(&self, address: &Address, mut request: Request<Bytes>) -> Result<Document, FetchError> {
        let deadline = Instant::now() + self.timeout;
        *request.uri_mut() = address.target();
        let headers = request.headers_mut();
        headers.extend(address.host_line().map(|host| (header::HOST, host)));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("portcullis"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let request = request.map(Full::new);
        let stream = within(deadline, address, Step::Connect, connect(address)).await?;
        let stream = stream.map_err(|error| FetchError::Connect(address.clone(), error))?;
        let line: AnyLine = if address.is_secure() {
            let secured = within(deadline, address, Step::Secure, self.secure(address, stream)).await?;
            Box::new(secured.map_err(|error| FetchError::Secure(address.clone(), error))?)
        } else {
            Box::new(stream)
        };
        self.exchange(address, line, request, deadline).await
    }

    async fn secure(
        &self,
        address: &Address,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = server_name(address.host()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.tls.connect(name, stream).await
    }

    async fn exchange(
        &self,
        address: &Address,
        line: AnyLine,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Document, FetchError> {
        let broken = |error| FetchError::Exchange(address.clone(), error);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES);
        let (mut sender, connection) = builder.handshake(TokioIo::new(line)).await.map_err(broken)?;
        // Ends with this exchange, however it ends.
        let _connection = AbortOnDropHandle::new(tokio::spawn(task(connection)));
        let answer = within(deadline, address, Step::Ask, sender.send_request(request)).await?.map_err(broken)?;
        if answer.status().is_redirection() {
            return Err(FetchError::Redirect(address.clone(), answer.status()));
        }
        within(deadline, address, Step::Read, self.read(address, answer)).await?
    }

    async fn read(&self, address: &Address, answer: Response<Incoming>) -> Result<Document, FetchError> {
        let (parts, body) = answer.into_parts();
        match Limited::new(body, self.most_bytes).collect().await {
            Ok(whole) => Ok(Document { status: parts.status, headers: parts.headers, body: whole.to_bytes() }),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(address.clone())),
            Err(error) => Err(FetchError::Body(address.clone(), error)),
        }
    }
}

async fn within<F: Future>(deadline: Instant, address: &Address, step: Step, work: F) -> Result<F::Output, FetchError> {
    tokio::time::timeout_at(deadline, work).await.map_err(|_| FetchError::Timeout(address.clone(), step))
}

async fn connect(address: &Address) -> io::Result<TcpStream> {
    let stream = reach::connect(address.socket()).await?;
    // The name `localhost` is only a promise until it was looked up.
    if !address.is_secure() && !stream.peer_addr()?.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "plain http leads to another machine"));
    }
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn request(method: Method, form: Option<String>, credential: Credential<'_>) -> Request<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(line) = authorization(credential) {
        headers.insert(header::AUTHORIZATION, line);
    }
    if form.is_some() {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
    }
    let mut request = Request::new(Bytes::from(form.unwrap_or_default()));
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    request
}

fn authorization(credential: Credential<'_>) -> Option<HeaderValue> {
    let text = Zeroizing::new(match credential {
        Credential::None => return None,
        Credential::Basic { name, secret } => {
            let written = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = Zeroizing::new(format!("{}:{}", written(name), written(secret)));
            format!("Basic {}", STANDARD.encode(pair.as_bytes()))
        }
        Credential::Bearer(token) => format!("Bearer {token}"),
    });
    let mut line = HeaderValue::from_str(&text).ok()?;
    line.set_sensitive(true);
    Some(line)
}
