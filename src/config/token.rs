//! `[token]`, or `[[token]]` for each of several issuers: bearer tokens that somebody else signs. One decision: nothing that
//! decides whose token is believed has a default – issuer, audience, algorithms and keys are written. Knows nothing of keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::RoleNames;

use super::oidc::user_prefix;
use super::problems::{did_you_mean, listed};
use super::session::secret;
use super::table::{At, Table, text};
use super::{OidcLogin, Secret};

/// What can be verified here.
const ALGORITHMS: [&str; 8] = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS256"];
/// What issuers put in `typ`: nothing or `JWT`, and `at+jwt` (RFC 9068). Not `logout+jwt` nor any other kind.
const KINDS: [&str; 2] = ["JWT", "at+jwt"];
/// Access tokens live for minutes or hours; a token that counts for longer than a day is a password.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Devices that nobody visits are given tokens for ten years and more; the file has to say so.
const LONGEST_EVER: Duration = Duration::from_secs(20 * 31_557_600);
/// Clocks that follow a time server differ by less.
const LEEWAY: Duration = Duration::from_secs(5);
/// Key servers ask to be asked once in some minutes to hours; an unknown key is asked for at once anyway.
const REFRESH: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// One issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIssuer {
    /// `iss`.
    pub issuer: String,
    /// One of these has to stand in `aud`.
    pub audiences: Vec<String>,
    /// By the names that headers carry.
    pub algorithms: Vec<&'static str>,
    /// Where its keys are.
    pub keys: TokenKeys,
    /// What `typ` may be.
    pub kinds: Vec<String>,
    /// The longest life.
    pub longest: Duration,
    /// How far its clock may be off.
    pub leeway: Duration,
    /// Which claims say who the bearer is.
    pub claims: ClaimNames,
    /// What stands before that for applications.
    pub user_prefix: String,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKeys {
    /// A set, or one key in PEM.
    File(PathBuf),
    /// A key server.
    Url {
        /// `https://…`.
        url: String,
        /// PEM of the CAs; `None`: the system's.
        ca: Option<PathBuf>,
        /// How often it is asked.
        refresh: Duration,
    },
    /// A shared secret, for HS256.
    Secret(Secret),
}

/// Names of claims, and what their roles mean here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Who.
    pub subject: String,
    /// Name for display.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Roles.
    pub roles: Option<String>,
    /// From a value of that claim to a declared role.
    pub role_map: BTreeMap<String, String>,
}

/// All issuers; `None` where one is mistaken.
pub(super) fn tokens(
    root: &mut Table<'_, '_>,
    roles: &RoleNames,
    providers: &[OidcLogin],
    base: &Path,
) -> Option<Vec<TokenIssuer>> {
    let tables = root.one_or_more("token");
    let broken = root.has_problem("token");
    let (count, mut issuers) = (tables.len(), Vec::<TokenIssuer>::new());
    for table in tables {
        let span = table.span().clone();
        let (path, prefix_path) = (table.path_of("issuer"), table.path_of("user_prefix"));
        let Some(issuer) = issuer(table, roles, base) else { continue };
        let shared = |prefix: &str, of: &str| {
            // One issuer's people are the same, whether they sign in or send a token.
            !prefix.is_empty() && prefix.eq_ignore_ascii_case(&issuer.user_prefix) && of != issuer.issuer
        };
        let logins = providers.iter().map(|login| (&login.user_prefix, &login.issuer));
        let others = issuers.iter().map(|other| (&other.user_prefix, &other.issuer));
        if let Some((_, twin)) = logins.chain(others).find(|(prefix, of)| shared(prefix, of)) {
            root.problem(&span, &prefix_path, format!("is the prefix of `{twin}` too; one name would be two people"));
        }
        if issuers.iter().any(|other| other.issuer == issuer.issuer) {
            root.problem(&span, &path, format!("`{}` stands twice; write one table for each issuer", issuer.issuer));
        }
        issuers.push(issuer);
    }
    (!broken && issuers.len() == count).then_some(issuers)
}

fn issuer(mut table: Table<'_, '_>, roles: &RoleNames, base: &Path) -> Option<TokenIssuer> {
    let issuer = table.needed("issuer", "what the tokens carry as `iss`, such as \"https://id.example.com\"");
    let audiences = audiences(&mut table);
    let algorithms = algorithms(&mut table);
    let keys = keys(&mut table, algorithms.as_deref(), base);
    let kinds = match table.texts("types", "a list such as [\"at+jwt\"]") {
        None => KINDS.map(str::to_owned).to_vec(),
        Some(list) if list.value.is_empty() => {
            table.problem(&list.span, "types", "is empty, so no token could pass; leave it out or name one");
            Vec::new()
        }
        Some(list) => list.value.into_iter().map(|at| at.value).collect(),
    };
    let longest = table.duration("max_lifetime", SECOND..LONGEST_EVER);
    // More than this is not a clock that is off, it is a token that outlives its end.
    let leeway = table.duration("leeway", Duration::ZERO..LEEWAY + Duration::from_millis(1));
    let claims = claims(&mut table, roles);
    let user_prefix = user_prefix(&mut table, false);
    table.done();
    Some(TokenIssuer {
        issuer: issuer?.value,
        audiences: audiences?,
        algorithms: algorithms?,
        keys: keys?,
        kinds,
        longest: longest.map_or(LONGEST, |at| at.value),
        leeway: leeway.map_or(LEEWAY, |at| at.value),
        claims: claims?,
        user_prefix: user_prefix?,
    })
}

/// One text or a list of them.
fn audiences(table: &mut Table<'_, '_>) -> Option<Vec<String>> {
    const ACCEPTED: &str = "what the tokens carry as `aud` when they are meant for this gateway, such as \"gateway\"";
    let list = table.text_or_texts("audience", ACCEPTED)?;
    let values: Vec<String> = list.value.into_iter().map(|at| at.value).collect();
    if values.iter().any(String::is_empty) || values.is_empty() {
        table.problem(&list.span, "audience", format!("is empty; write {ACCEPTED}"));
        return None;
    }
    (!table.has_problem("audience")).then_some(values)
}

fn algorithms(table: &mut Table<'_, '_>) -> Option<Vec<&'static str>> {
    const ACCEPTED: &str = "a list such as [\"ES256\"]";
    let Some(list) = table.texts("algorithms", ACCEPTED) else {
        if !table.has_problem("algorithms") {
            table.missing("algorithms", &format!("write {ACCEPTED}"));
        }
        return None;
    };
    let (wanted, mut known) = (list.value.len(), Vec::new());
    for At { value, span, .. } in list.value {
        match ALGORITHMS.iter().find(|name| **name == value) {
            Some(name) => known.push(*name),
            None => {
                let near = did_you_mean(&value, ALGORITHMS);
                let all = listed(ALGORITHMS);
                table.problem(&span, "algorithms", format!("`{value}` is not verified here; known: {all}{near}"));
            }
        }
    }
    if wanted == 0 && !table.has_problem("algorithms") {
        table.problem(&list.span, "algorithms", format!("is empty; write {ACCEPTED}"));
    }
    // A secret beside public keys: whoever knows a public key could use it as the secret (RFC 8725 §2.1).
    if known.contains(&"HS256") && known.len() > 1 {
        table.problem(&list.span, "algorithms", "`HS256` stands beside others; an issuer has a secret or public keys");
        return None;
    }
    (wanted > 0 && known.len() == wanted).then_some(known)
}

fn keys(table: &mut Table<'_, '_>, algorithms: Option<&[&str]>, base: &Path) -> Option<TokenKeys> {
    const ACCEPTED: &str = "write `jwks` (https://… or a file), `key` (a PEM file) or, for HS256, `secret`";
    let jwks = table.text("jwks", "an https:// address or a file");
    let key = table.text("key", "the path of a PEM file");
    let shared = secret(table, "secret", base);
    let ca = table.text("ca", "the path of a PEM file").map(|at| base.join(at.value));
    let refresh = table.duration("refresh", SECOND..Duration::from_secs(86_400)).map_or(REFRESH, |at| at.value);
    let with_secret = algorithms.map(|names| names.contains(&"HS256"));
    let span = table.span().clone();
    match (jwks, key, shared?) {
        (Some(At { value, span, .. }), None, None) if value.contains("://") => {
            if !value.starts_with("https://") {
                let wrong = format!("`{value}` is not https; whoever can change it on the way signs tokens");
                table.problem(&span, "jwks", wrong);
                return None;
            }
            public(table, "jwks", &span, with_secret)?;
            Some(TokenKeys::Url { url: value, ca, refresh })
        }
        (Some(At { value, span, .. }), None, None) => {
            public(table, "jwks", &span, with_secret)?;
            Some(TokenKeys::File(base.join(value)))
        }
        (None, Some(At { value, span, .. }), None) => {
            public(table, "key", &span, with_secret)?;
            if algorithms.is_some_and(|names| names.len() > 1) {
                table.problem(&span, "key", "is one key, and several `algorithms` are named; write the one it is for");
                return None;
            }
            Some(TokenKeys::File(base.join(value)))
        }
        (None, None, Some(shared)) if with_secret != Some(false) => Some(TokenKeys::Secret(shared)),
        (None, None, Some(_)) => {
            table.problem(&span, "secret", "is for HS256 alone; write `algorithms = [\"HS256\"]`, or `jwks` or `key`");
            None
        }
        _ if table.has_problem("jwks") || table.has_problem("key") => None,
        (None, None, None) => {
            table.missing_beside("jwks", ACCEPTED);
            None
        }
        _ => {
            table.problem(&span, "jwks", format!("more than one source of keys; {ACCEPTED}"));
            None
        }
    }
}

fn public(table: &Table<'_, '_>, key: &str, span: &std::ops::Range<usize>, with_secret: Option<bool>) -> Option<()> {
    if with_secret == Some(true) {
        table.problem(span, key, "holds public keys, and `HS256` has a shared secret; write `secret`");
        return None;
    }
    Some(())
}

fn claims(table: &mut Table<'_, '_>, roles: &RoleNames) -> Option<ClaimNames> {
    let mut name = |key| table.text(key, "the name of a claim").map(|at| at.value).filter(|name| !name.is_empty());
    let subject = name("subject_claim").unwrap_or_else(|| "sub".to_owned());
    let (display, email) = (name("name_claim"), name("email_claim"));
    let claim = name("roles_claim");
    let (mut role_map, mut fine) = (BTreeMap::new(), true);
    for (from, span, value) in table.entries("role_map") {
        match text(value).filter(|role| roles.id(role).is_some()) {
            Some(role) => drop(role_map.insert(from, role)),
            None => {
                let known = listed(roles.iter());
                table.problem(
                    &span,
                    "role_map",
                    format!("`{from}` does not lead to a declared role; declared: {known}"),
                );
                fine = false;
            }
        }
    }
    if !role_map.is_empty() && claim.is_none() {
        table.missing_beside("roles_claim", "write the claim whose values `role_map` reads, such as \"groups\"");
        fine = false;
    }
    let email = email.or_else(|| Some("email".to_owned()));
    let display = display.or_else(|| Some("name".to_owned()));
    fine.then_some(ClaimNames { subject, name: display, email, roles: claim, role_map })
}
