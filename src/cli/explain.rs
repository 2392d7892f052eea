//! `portcullis explain`. One decision: it asks the same matcher, the same decision and the same table of answers as a request does,
//! and prints what they say. Knows nothing of matching.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Config, TokenIssuer};
use crate::policy::{
    Authentication, Decision, Explained, Found, HostHeader, Identity, Matched, Miss, Permit, Preflight, Proof,
    RequestHead, Route, SignedIn, Told, explain, methods,
};
use crate::proxy::{Refusal, is_own};

use super::{BAD_INPUT, load, say};

/// The moment that is explained, and of the sign-in: ages are not this command's to guess.
const SIGNED_IN: Duration = Duration::ZERO;

/// What is asked.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The request's method.
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// Who asks; without it nobody is signed in.
    #[arg(long)]
    user: Option<String>,
    /// A role the user holds; may be repeated.
    #[arg(long = "role", requires = "user")]
    roles: Vec<String>,
    /// What the user brings: the cookie of a session, or a bearer token. A route reads what it accepts.
    #[arg(long, requires = "user", value_enum, default_value = "session", value_name = "WHAT")]
    by: By,
    /// Where the user signed in, a moment ago; without it at the first place of the file.
    #[arg(long, requires = "user", value_name = "NAME")]
    login: Option<String>,
    /// Who signed the token; without it the first issuer of the file.
    #[arg(long, requires = "user", value_name = "ISSUER")]
    issuer: Option<String>,
    /// A header the client sends, as `Name: value`; may be repeated. `--method OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method` is a preflight.
    #[arg(long = "header", value_name = "LINE")]
    headers: Vec<String>,
    /// The address asked for, as in `https://app.example.com/admin`.
    url: String,
}

/// What a user brings.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    Session,
    Token,
}

/// Explain on standard output.
pub(super) fn run(path: &Path, arguments: &Arguments) -> ExitCode {
    let outcome = load::load(path)
        .map_err(|error| error.to_string())
        .and_then(|config| told(arguments, &config, &path.display().to_string()));
    match outcome {
        Ok(text) => {
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error);
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn told(arguments: &Arguments, config: &Config, file: &str) -> Result<String, String> {
    let parts = request(arguments)?;
    let head = match RequestHead::parse(&parts, None) {
        Ok(head) => head,
        Err(error) => {
            let (why, status) = (error.as_str(), Refusal::Head(error).status().as_u16());
            return Ok(format!("refused with {status} before any route is looked for: {why}\n"));
        }
    };
    let authentication = authentication(arguments, config)?;
    let explained = explain(&config.routes, &head, authentication, SIGNED_IN);
    let mut text = String::new();
    let _ = writeln!(text, "{} https://{}{}", head.method, head.authority, head.path.raw());
    if is_own(&head) {
        text.push_str(
            "a page of the gateway itself: nothing under /.portcullis is forwarded, whatever the routes say\n",
        );
        return Ok(text);
    }
    routes(&mut text, &explained, file);
    if let Found::Route(matched) = &explained.found
        && preflight(&mut text, matched.route, &head, &parts)
    {
        return Ok(text);
    }
    decision(&mut text, &explained);
    if let Some(Decision::Forward(permit, _)) = &explained.decision {
        forwarded(&mut text, permit, config, &parts.headers);
    }
    Ok(text)
}

/// What the application receives beside what the client sent, and what of that it does not.
fn forwarded(text: &mut String, permit: &Permit, config: &Config, client: &HeaderMap) {
    let (route, options) = (permit.route(), &permit.route().options);
    let path = permit.rewritten().map(|path| format!(" as {path}")).unwrap_or_default();
    let _ = writeln!(text, "forwarded to upstream `{}`{path} with", config.upstreams[route.upstream.0].name);
    let mut line = |name: &HeaderName, value: &[u8]| {
        let _ = writeln!(text, "  {name}: {}", String::from_utf8_lossy(value));
    };
    if let HostHeader::Fixed(host) = &options.host {
        line(&header::HOST, host.as_bytes());
    }
    let own = permit.caller().map(|caller| &caller.headers);
    // What is told of the caller counts for more than a line of the route.
    let set = options.request.set.iter().filter(|(name, _)| !own.is_some_and(|own| own.names(name)));
    set.for_each(|(name, value)| line(name, value.as_bytes()));
    own.into_iter().flat_map(Told::lines).for_each(|(name, text)| line(name, text.as_bytes()));
    // These are made when somebody calls.
    let called = permit.caller();
    if let Some(signed) = options.signed_identity.as_ref().filter(|_| called.is_some()) {
        let _ = writeln!(text, "  {}: a statement of who calls, signed for `{}`", signed.header, signed.audience);
    }
    if let Some(name) = route.sign_in.access_token.as_ref().filter(|_| called.is_some()) {
        let _ = writeln!(text, "  {name}: the access token of the provider, where that is kept");
    }
    for name in &options.request.remove {
        let _ = writeln!(text, "  (any {name} is removed)");
    }
    let removed = |name: &&HeaderName| config.identity_headers.owns(name.as_str()) || options.removes(name.as_str());
    for name in client.keys().filter(removed) {
        let _ = writeln!(text, "  (the client's {name} is removed)");
    }
    if permit.caller().is_none() {
        let _ = writeln!(text, "  no identity");
    }
}

fn routes(text: &mut String, explained: &Explained<'_>, file: &str) {
    for (route, miss) in &explained.routes {
        let why = match miss {
            Miss::Chosen => "MATCH".to_owned(),
            Miss::Host => format!("no: answers for {}", route.host),
            Miss::Path => format!("no: the path is not under {}", route.path.as_str()),
            Miss::Method => "no: other methods".to_owned(),
            Miss::LessSpecific => "no: covers it, but another route is more specific".to_owned(),
            Miss::Doubtful => "no: covers it, but the path has more than one reading".to_owned(),
        };
        let _ = writeln!(text, "  {file}:{} route `{}`: {why}", route.line, route.name);
    }
}

fn decision(text: &mut String, explained: &Explained<'_>) {
    if let Found::Route(Matched { also: Some(also), rewritten: Some(path), .. }) = &explained.found {
        let _ = writeln!(text, "rewritten to {path}, where the rule of route `{}` holds as well", also.name);
    }
    match explained.unread {
        Some(Proof::Session) => text.push_str("a session is not read there: `accept` of the route has tokens alone\n"),
        Some(Proof::Token) => text.push_str("a token is not read there: `accept` of the route has sessions alone\n"),
        None => {}
    }
    let (refusal, why) = match (&explained.found, &explained.decision) {
        (_, Some(decision)) => {
            let _ = writeln!(text, "decision: {} ({})", decision.as_str(), decision.reason().as_str());
            return;
        }
        (Found::Method(routes), None) => (Refusal::Method(methods(routes)), "method_not_allowed"),
        (Found::Ambiguous, None) => (
            Refusal::AmbiguousPath,
            "path_ambiguous: read without regard to case, parameters or trailing dots it falls under another route",
        ),
        (Found::Doubtful(doubt), None) => {
            let told = ", which only a route with `encoded_slashes` takes, and only if the path falls under it however it is read";
            let _ = writeln!(text, "decision: refuse with 400 ({}{told})", doubt.as_str());
            return;
        }
        _ => (Refusal::NoRoute, "not_found"),
    };
    let _ = writeln!(text, "decision: refuse with {} ({why})", refusal.status().as_u16());
}

/// Whether the route answers a preflight before anybody is asked who they are.
fn preflight(text: &mut String, route: &Route, head: &RequestHead<'_>, parts: &http::request::Parts) -> bool {
    match (&route.options.preflight, &head.preflight) {
        (Preflight::Answer(cors), Some(_)) => {
            let origin = parts.headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
            let _ = match origin.filter(|origin| cors.allows(origin)) {
                Some(_) => writeln!(text, "decision: answered here with 204 (preflight), whoever asks"),
                None => {
                    let status = Refusal::Origin.status().as_u16();
                    writeln!(
                        text,
                        "decision: refuse with {status} (preflight of an origin that the route does not name)"
                    )
                }
            };
            true
        }
        (Preflight::Answer(_) | Preflight::Pass, None) if *head.method == http::Method::OPTIONS => {
            text.push_str("no preflight: that has the headers Origin and Access-Control-Request-Method\n");
            false
        }
        _ => false,
    }
}

fn request(arguments: &Arguments) -> Result<http::request::Parts, String> {
    let url: http::Uri =
        arguments.url.parse().map_err(|error| format!("`{}` is not an address: {error}", arguments.url))?;
    let authority =
        url.authority().ok_or_else(|| format!("`{}` names no host; write https://HOST/PATH", arguments.url))?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    let target = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let mut request = http::Request::new(());
    *request.method_mut() = arguments.method.clone();
    *request.uri_mut() = target.parse().map_err(|error| format!("`{target}` is not a target: {error}"))?;
    request.headers_mut().insert(header::HOST, host);
    for line in &arguments.headers {
        let wrong = || format!("`{line}` is not a header; write `Name: value`");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        request.headers_mut().append(name, value);
    }
    Ok(request.into_parts().0)
}

/// What stands before the names of the issuer that is meant.
fn token_prefix<'c>(arguments: &Arguments, config: &'c Config) -> Result<&'c str, String> {
    let is_meant = |issuer: &&TokenIssuer| arguments.issuer.as_ref().is_none_or(|meant| *meant == issuer.issuer);
    match (config.tokens.iter().find(is_meant), &arguments.issuer) {
        (Some(issuer), _) => Ok(&issuer.user_prefix),
        (None, None) => Ok(""),
        (None, Some(meant)) => {
            let known: Vec<&str> = config.tokens.iter().map(|issuer| issuer.issuer.as_str()).collect();
            Err(format!("no issuer of tokens is `{meant}`; known: {}", known.join(", ")))
        }
    }
}

fn authentication(arguments: &Arguments, config: &Config) -> Result<Authentication, String> {
    let Some(user) = &arguments.user else { return Ok(Authentication::Anonymous) };
    if let Some(unknown) = arguments.roles.iter().find(|role| config.roles.id(role).is_none()) {
        let declared: Vec<&str> = config.roles.iter().collect();
        return Err(format!("role `{unknown}` is not declared; declared: {}", declared.join(", ")));
    }
    let places: Vec<&str> = config.places().collect();
    let login = match &arguments.login {
        Some(login) if !places.contains(&login.as_str()) => {
            return Err(format!("no place to sign in is named `{login}`; known: {}", places.join(", ")));
        }
        Some(login) => login.clone(),
        None => places.first().copied().unwrap_or_default().to_owned(),
    };
    let roles = config.roles.set(arguments.roles.iter().map(String::as_str));
    let (prefix, proof, signed_in) = match arguments.by {
        By::Session if arguments.issuer.is_some() => return Err("a session tells of no issuer of tokens".to_owned()),
        By::Session => {
            let provider = config.oidc.iter().find(|provider| provider.name == login);
            let prefix = provider.map_or("", |provider| &provider.user_prefix);
            (prefix, Proof::Session, Some(SignedIn { login, at: SIGNED_IN, acr: None }))
        }
        By::Token if arguments.login.is_some() => return Err("a token tells of no place to sign in".to_owned()),
        By::Token => (token_prefix(arguments, config)?, Proof::Token, None),
    };
    // Whoever writes the name as applications know it means the same.
    let bare = user.strip_prefix(prefix).unwrap_or(user);
    let subject = config.names(prefix).told(bare).ok_or_else(|| format!("nobody is called `{user}` there"))?;
    let identity = Identity {
        subject,
        name: None,
        email: None,
        roles,
        role_names: config.roles.names(roles).map(str::to_owned).collect(),
        proof,
        signed_in,
    };
    Ok(Authentication::Identified(Arc::new(config.identity_headers.caller(identity))))
}
