//! Whom an operator means. One decision: a place to sign in that is not there is an error that names those that are, for *done* must
//! not be said of nobody while somebody stays in; but whose sessions are there, is there, whatever the file says by now. Knows
//! nothing of what is done to them.

use http::StatusCode;

use crate::session::UserKey;

use super::Admin;
use super::router::{Answer, text};
use super::sessions::unavailable;

/// A person.
pub(super) struct Person {
    /// As sessions and tokens know them.
    pub(super) key: UserKey,
    /// Where they sign in, or who issues their tokens: `local`, or an issuer.
    pub(super) provider: String,
    /// What they are called there.
    pub(super) subject: String,
}

impl Person {
    fn new(provider: String, subject: String) -> Person {
        Person { key: UserKey::of(&provider, &subject), provider, subject }
    }
}

/// Who signs in at a place: `local`, an OpenID provider by its name or its issuer.
///
/// # Errors
/// The answer: there is no such place, or the store did not say whether anybody is there.
pub(super) async fn who_signs_in(admin: &Admin, place: &str, user: &str) -> Result<Person, Answer> {
    match admin.runtime().login.person(place, user) {
        Some((provider, subject)) => Ok(Person::new(provider, subject)),
        None => left_behind(admin, place, user).await?.ok_or_else(|| {
            let places = admin.runtime().login.places().join(", ");
            text(StatusCode::BAD_REQUEST, format!("nobody signs in at `{place}`; there are: {places}\n"))
        }),
    }
}

/// The same, or the bearer of an issuer's tokens.
///
/// # Errors
/// As [`who_signs_in`].
pub(super) async fn who_brings(admin: &Admin, issuer: &str, user: &str) -> Result<Person, Answer> {
    let runtime = admin.runtime();
    if let Some((provider, subject)) = runtime.login.person(issuer, user) {
        return Ok(Person::new(provider, subject));
    }
    if runtime.authenticator.tokens().longest_of(issuer).is_some() {
        return Ok(Person::new(issuer.to_owned(), user.to_owned()));
    }
    if runtime.longest_of_own(issuer).is_some() {
        // Their subject is what applications call somebody, and not who it is.
        let places = runtime.login.places().join(", ");
        let words =
            format!("`{issuer}` is this gateway, which signs what it says of whoever signs in; say where: {places}\n");
        return Err(text(StatusCode::BAD_REQUEST, words));
    }
    left_behind(admin, issuer, user).await?.ok_or_else(|| no_issuer(admin, issuer))
}

/// What is said of an issuer that is not there.
pub(super) fn no_issuer(admin: &Admin, issuer: &str) -> Answer {
    let runtime = admin.runtime();
    let (issuers, places) = (runtime.authenticator.tokens().issuers(), runtime.login.places());
    let there: Vec<&str> = issuers.chain(runtime.own_issuer()).chain(places).collect();
    let words = format!("no tokens of this issuer are accepted: `{issuer}`; there are: {}\n", there.join(", "));
    text(StatusCode::BAD_REQUEST, words)
}

/// Sessions go on when their provider is taken out of the file; they are found by its issuer.
async fn left_behind(admin: &Admin, provider: &str, user: &str) -> Result<Option<Person>, Answer> {
    let person = Person::new(provider.to_owned(), user.to_owned());
    let found = admin.sessions.list(person.key, admin.clock.now()).await.map_err(|error| unavailable(&error))?;
    Ok((!found.is_empty()).then_some(person))
}
