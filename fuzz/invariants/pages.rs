//! Pages: whatever is told in one stays text: it has the very tags and attributes that a harmless one has.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::login::pages::{Choice, Device, Pages, Problem, SignIn, SignInPage, SignInProblem, WhoAmI};

static PAGES: LazyLock<Pages> = LazyLock::new(Pages::new);

/// `data` is two texts with a line break between them.
pub fn hold(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    let harmless = |text: &str| if text.is_empty() { "" } else { "x" }.to_owned();
    let shown = all(one, other);
    let plain = all(&harmless(one), &harmless(other));
    for (shown, plain) in shown.iter().zip(&plain) {
        assert_eq!(shown.status(), plain.status());
        assert_ne!(shown.status(), StatusCode::INTERNAL_SERVER_ERROR);
        for mark in [b'<', b'>', b'"', b'\''] {
            let count = |page: &Response<Bytes>| page.body().iter().filter(|byte| **byte == mark).count();
            assert_eq!(count(shown), count(plain), "{:?} with {text:?}", char::from(mark));
        }
        assert_eq!(shown.headers(), plain.headers());
    }
}

fn all(one: &str, other: &str) -> Vec<Response<Bytes>> {
    let text = str::to_owned;
    let form = SignIn {
        state: text(one),
        user: text(other),
        error: Some(text(one)),
        local: true,
        choices: vec![Choice { title: text(other), href: text(one) }],
    };
    let device =
        Device { label: text(one), begun: text(other), last_seen: text(one), this: false, handle: text(other) };
    let who = WhoAmI {
        subject: text(one),
        name: Some(text(other)),
        email: Some(text(one)),
        roles: vec![text(one), text(other)],
        signed_in: text(one),
        idle_until: text(other),
        ends: text(one),
        headers: vec![(text(one), text(other))],
        csrf: format!("c{other}"),
    };
    let problem = Problem { status: 400, title: one, message: other, link: Some(one), request_id: other };
    let page = SignInPage { title: one, again: other, request_id: one };
    vec![
        PAGES.problem(&problem),
        PAGES.sign_in(StatusCode::OK, &form),
        PAGES.sign_in_problem(SignInProblem::Stale, &page),
        PAGES.signed_out_here(one),
        PAGES.sign_out(one, other),
        PAGES.signed_out(one),
        PAGES.whoami(&who),
        PAGES.sessions(&[device], other),
    ]
}
