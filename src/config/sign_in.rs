//! What a `[[route]]` asks of the sign-in itself. One decision: a demand that could never be met is a mistake in the file, not an
//! endless way between two pages. Knows nothing of how people sign in.

use std::time::Duration;

use http::HeaderName;

use crate::policy::{AccessRule, SignInRule};

use super::problems::{did_you_mean, listed};
use super::table::{At, Table};

/// Below it a person would sign in again before the page is there.
const LEAST_AGE: Duration = Duration::from_secs(10);
/// A session that is older has ended anyway in most places.
const MOST_AGE: Duration = Duration::from_secs(28 * 86_400);

/// Read it. `None` where something is mistaken.
pub(super) fn sign_in(table: &mut Table<'_, '_>, access: Option<AccessRule>, logins: &[String]) -> Option<SignInRule> {
    let span = table.span().clone();
    let login = match table.text("login", "the name of a place to sign in") {
        None => None,
        Some(At { value, .. }) if logins.contains(&value) => Some(value),
        Some(At { value, span, .. }) => {
            let near = did_you_mean(&value, logins.iter().map(String::as_str));
            let known = listed(logins.iter().map(String::as_str));
            table.problem(&span, "login", format!("no place to sign in is named `{value}`; known: {known}{near}"));
            None
        }
    };
    let max_auth_age = table.duration("max_auth_age", LEAST_AGE..MOST_AGE).map(|at| at.value);
    let wanted = "a list such as [\"urn:example:gold\"]";
    let acr = table.texts("acr", wanted);
    if let Some(empty) = acr.as_ref().filter(|list| list.value.is_empty() && !table.has_problem("acr")) {
        table.problem(&empty.span, "acr", format!("is empty; write {wanted}"));
    }
    let acr: Vec<String> = acr.map(|list| list.value.into_iter().map(|at| at.value).collect()).unwrap_or_default();
    if !acr.is_empty() && login.as_deref().is_none_or(|login| login == "local") && !table.has_problem("login") {
        table.missing_beside("login", "`acr` is an OpenID provider's to confirm; write which one");
    }
    if let Some(wrong) = acr.iter().find(|value| value.is_empty() || value.contains(char::is_whitespace)) {
        table.problem(&span, "acr", format!("`{wrong}` is no such value; write {wanted}"));
    }
    let access_token = access_token(table, login.as_deref());
    let rule = SignInRule { login, max_auth_age, acr, access_token };
    if access == Some(AccessRule::Public) && rule != SignInRule::default() {
        table.problem(&span, "login", "this route is public: nobody signs in for it; leave these keys out");
    }
    let broken = ["login", "max_auth_age", "acr", "access_token_header"].iter().any(|key| table.has_problem(key));
    (!broken).then_some(rule)
}

fn access_token(table: &mut Table<'_, '_>, login: Option<&str>) -> Option<HeaderName> {
    let accepted = "a header name such as \"X-Access-Token\"";
    let At { value, span, .. } = table.text("access_token_header", accepted)?;
    if login.is_none_or(|login| login == "local") && !table.has_problem("login") {
        table.missing_beside("login", "`access_token_header` carries an OpenID provider's token; write which one");
    }
    // `Authorization` is where an application looks for a bearer; everything else that has a meaning of its own is refused.
    let name = if value.eq_ignore_ascii_case("authorization") {
        Ok(http::header::AUTHORIZATION)
    } else {
        super::options::header(&value)
    };
    match name {
        Ok(name) => Some(name),
        Err(wrong) => {
            table.problem(&span, "access_token_header", format!("`{value}` {wrong}"));
            None
        }
    }
}
