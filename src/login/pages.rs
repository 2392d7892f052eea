//! The pages. One decision: HTML that works without scripts, escaped by the template engine, under a policy that lets nothing
//! in but our own style sheet. Knows nothing of when which page is shown.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Serialize;

/// What pages may load and who may frame them. No script runs, whatever a page is made to contain.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                              frame-ancestors 'none'; base-uri 'none'";
/// The same of a refusal, which has no form and tells nothing: frames of the application's own pages show it. There a browser would
/// say of a page that it may not show that the site is down.
const PROBLEM_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'none'; \
                              frame-ancestors 'self'; base-uri 'none'";
const STYLE: &str = include_str!("assets/portcullis.css");
const MARK: &str = include_str!("assets/mark.svg");
/// Assets change with the program only.
const ASSET_CACHING: &str = "public, max-age=86400";

/// A refusal, for a person.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'p> {
    /// Status.
    pub status: u16,
    /// Its name.
    pub title: &'p str,
    /// One sentence.
    pub message: &'p str,
    /// Where to sign in, on this host, where that would help.
    pub link: Option<&'p str>,
    /// To be quoted to whoever runs the gateway.
    pub request_id: &'p str,
}

/// The sign-in page's contents.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SignIn {
    /// The sealed state.
    pub state: String,
    /// The name that was typed.
    pub user: String,
    /// What went wrong, if something did.
    pub error: Option<String>,
    /// Whether there are local users, who have passwords.
    pub local: bool,
    /// Other places to sign in.
    pub choices: Vec<Choice>,
}

/// Another place to sign in.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// What it is called.
    pub title: String,
    /// Where it begins, on this host.
    pub href: String,
}

/// Why a sign-in at a provider led to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInProblem {
    /// It was not begun by a page load.
    NotAPage,
    /// What came back belongs to no attempt of this browser, or came too late.
    Stale,
    /// The browser does not bring the cookie that it was given, twice.
    NoCookie,
    /// The provider, or the person there, said no.
    Declined,
    /// Not as strongly or recently as asked for.
    TooWeak,
    /// Known there, and on no list here.
    NotAllowed,
    /// Many answers came from there that the provider knew nothing of.
    TooMany,
}

impl SignInProblem {
    fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            SignInProblem::NotAPage => {
                (StatusCode::BAD_REQUEST, "This is a page of its own", "Sign-in begins when its page is opened.")
            }
            SignInProblem::Stale => (
                StatusCode::BAD_REQUEST,
                "This sign-in cannot go on",
                "It took too long, was used already, or belongs to another browser. You are not signed in by it.",
            ),
            SignInProblem::NoCookie => (
                StatusCode::BAD_REQUEST,
                "Your browser keeps no cookies here",
                "It did not bring back what this sign-in began with. Allow cookies for this site, and begin again in this browser.",
            ),
            SignInProblem::Declined => {
                (StatusCode::FORBIDDEN, "You were not signed in", "The sign-in was declined or did not succeed there.")
            }
            SignInProblem::TooWeak => (
                StatusCode::FORBIDDEN,
                "A stronger sign-in is needed",
                "It was not confirmed that you signed in as recently or as strongly as this page asks for.",
            ),
            SignInProblem::NotAllowed => (
                StatusCode::FORBIDDEN,
                "Your account may not come in",
                "You are known there, but your account is not allowed here.",
            ),
            SignInProblem::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many attempts",
                "Many sign-ins from your network did not succeed. Please wait a moment and try again.",
            ),
        }
    }
}

/// What a page of [`SignInProblem`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct SignInPage<'p> {
    /// What the provider is called.
    pub title: &'p str,
    /// Where the sign-in begins anew, on this host.
    pub again: &'p str,
    /// To be quoted to whoever runs the gateway.
    pub request_id: &'p str,
}

/// One row of the list of devices.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// What the browser called itself.
    pub label: String,
    /// RFC 3339.
    pub begun: String,
    /// RFC 3339.
    pub last_seen: String,
    /// Whether it is the one that asks.
    pub this: bool,
    /// Names the session in a form.
    pub handle: String,
}

/// The page of who one is.
#[derive(Clone, Debug, Serialize)]
pub struct WhoAmI {
    /// The user id.
    pub subject: String,
    /// Name for display.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Role names.
    pub roles: Vec<String>,
    /// RFC 3339.
    pub signed_in: String,
    /// When it ends if unused.
    pub idle_until: String,
    /// When it ends at the latest.
    pub ends: String,
    /// The headers an application receives.
    pub headers: Vec<(String, String)>,
    /// For the forms; programs are given none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub csrf: String,
}

/// All pages.
pub struct Pages(Environment<'static>);

impl Default for Pages {
    fn default() -> Self {
        Pages::new()
    }
}

impl Pages {
    /// The templates, parsed.
    pub fn new() -> Pages {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let templates = [
            ("base", include_str!("templates/base.html")),
            ("sign_in", include_str!("templates/sign_in.html")),
            ("sign_in_problem", include_str!("templates/sign_in_problem.html")),
            ("sign_out", include_str!("templates/sign_out.html")),
            ("signed_out", include_str!("templates/signed_out.html")),
            ("signed_out_here", include_str!("templates/signed_out_here.html")),
            ("whoami", include_str!("templates/whoami.html")),
            ("sessions", include_str!("templates/sessions.html")),
            ("problem", include_str!("templates/problem.html")),
        ];
        for (name, text) in templates {
            environment.add_template(name, text).expect("the templates are part of the program and tested");
        }
        Pages(environment)
    }

    /// A refusal.
    pub fn problem(&self, problem: &Problem<'_>) -> Response<Bytes> {
        let Problem { status, title, message, link, request_id } = *problem;
        let mut response = self.page("problem", StatusCode::OK, context! { status, title, message, link, request_id });
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PROBLEM_POLICY));
        response
    }

    /// The sign-in page.
    pub fn sign_in(&self, status: StatusCode, form: &SignIn) -> Response<Bytes> {
        self.page("sign_in", status, context! { form => Serde(form) })
    }

    /// Why a sign-in at a provider did not succeed.
    pub fn sign_in_problem(&self, problem: SignInProblem, page: &SignInPage<'_>) -> Response<Bytes> {
        let (status, title, message) = problem.words();
        let SignInPage { title: provider, again, request_id } = *page;
        self.page("sign_in_problem", status, context! { title, message, provider, again, request_id })
    }

    /// Signed out here, and on the way to `location` to sign out there. A page and not a redirect: browsers hold redirects
    /// that follow a form to the form's policy, which names this host alone.
    pub fn signed_out_here(&self, location: &str) -> Response<Bytes> {
        let mut response = self.page("signed_out_here", StatusCode::OK, context! { location });
        // The address holds the ID token.
        response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }

    /// The page with the sign-out button.
    pub fn sign_out(&self, csrf: &str, start: &str) -> Response<Bytes> {
        self.page("sign_out", StatusCode::OK, context! { csrf, start })
    }

    /// Signed out.
    pub fn signed_out(&self, start: &str) -> Response<Bytes> {
        self.page("signed_out", StatusCode::OK, context! { start })
    }

    /// Who one is.
    pub fn whoami(&self, who: &WhoAmI) -> Response<Bytes> {
        self.page("whoami", StatusCode::OK, context! { who => Serde(who) })
    }

    /// My devices.
    pub fn sessions(&self, devices: &[Device], csrf: &str) -> Response<Bytes> {
        self.page("sessions", StatusCode::OK, context! { devices => Serde(devices), csrf })
    }

    /// A file that pages load.
    pub fn asset(&self, name: &str) -> Option<Response<Bytes>> {
        let (kind, text) = match name {
            "portcullis.css" => ("text/css; charset=utf-8", STYLE),
            "mark.svg" => ("image/svg+xml", MARK),
            _ => return None,
        };
        let mut response = Response::new(Bytes::from_static(text.as_bytes()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(ASSET_CACHING));
        Some(response)
    }

    fn page(&self, name: &str, status: StatusCode, context: Value) -> Response<Bytes> {
        let rendered = self.0.get_template(name).and_then(|template| template.render(context));
        let (status, html) = match rendered {
            Ok(html) => (status, html),
            Err(error) => {
                tracing::error!(%error, page = name, "a page could not be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, "The gateway made a mistake.".to_owned())
            }
        };
        let mut response = Response::new(Bytes::from(html));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // `no-referrer` would make browsers send `Origin: null` with our own forms.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }
}
