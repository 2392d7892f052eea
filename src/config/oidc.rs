//! `[login.oidc.NAME]`. One decision: what decides who somebody is – the issuer, and the words put before names where there is
//! more than one place to sign in – is written, never guessed. Knows nothing of the protocol.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::policy::RoleNames;

use super::problems::{did_you_mean, listed};
use super::session::secret;
use super::table::{At, Table, text};
use super::{OidcClientAuth, OidcLogin};

/// What names a person and finds their e-mail address; every provider knows these (OpenID Connect Core §5.4).
const SCOPES: [&str; 3] = ["openid", "profile", "email"];
const NAME_LENGTH: usize = 32;

/// All providers; `None` where one of them is mistaken.
pub(super) fn providers(
    login: &mut Table<'_, '_>,
    local: bool,
    roles: &RoleNames,
    base: &Path,
) -> Option<Vec<OidcLogin>> {
    let mut tables = login.named_tables("oidc");
    // The order of the file is the order of the buttons.
    tables.sort_unstable_by_key(|(_, table)| table.line());
    let count = tables.len();
    let several = count + usize::from(local) > 1;
    let mut good: Vec<OidcLogin> = Vec::new();
    for (name, table) in tables {
        let (span, path) = (table.span().clone(), table.path_of("issuer"));
        let prefix_path = table.path_of("user_prefix");
        let Some(provider) = provider(name, table, several, roles, base) else { continue };
        if let Some(twin) = good.iter().find(|other| other.issuer == provider.issuer) {
            login.problem_at(&span, &path, format!("is the issuer of `{}` too; write it once", twin.name));
        }
        if let Some(twin) = good.iter().find(|other| other.user_prefix.eq_ignore_ascii_case(&provider.user_prefix)) {
            let message = format!("is the prefix of `{}` too; one name would be two people", twin.name);
            login.problem_at(&span, &prefix_path, message);
        }
        good.push(provider);
    }
    (good.len() == count && !login.has_problem("oidc")).then_some(good)
}

fn provider(
    name: String,
    mut table: Table<'_, '_>,
    several: bool,
    roles: &RoleNames,
    base: &Path,
) -> Option<OidcLogin> {
    let span = table.span().clone();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fine = name != "local" && !name.is_empty() && name.len() <= NAME_LENGTH && name.bytes().all(plain);
    if !fine {
        let accepted = "use lower-case letters, digits and -, at most 32, and not `local`: it stands in addresses";
        let key = format!("login.oidc.{name}");
        table.problem_at(&span, &key, format!("is no name for a provider; {accepted}"));
    }
    let issuer = issuer(&mut table);
    let client_id = needed(&mut table, "client_id", "the name the provider knows this gateway by");
    let client_auth = client_auth(&mut table, base);
    let title = table.text("title", "a text for the button").map(|at| at.value);
    let scopes = scopes(&mut table);
    let roles_claim = table.text("roles_claim", "a claim such as \"groups\" or \"realm_access.roles\"");
    let role_map = role_map(&mut table, roles);
    let algorithms = algorithms(&mut table);
    let trust_email = table.flag("trust_email").is_some_and(|flag| flag.value);
    let user_claim = table.text("user_claim", "a claim such as \"sub\", \"preferred_username\" or \"email\"");
    let user_prefix = user_prefix(&mut table, several);
    let [allow_domains, allow_emails, allow_groups] =
        ["allow_domains", "allow_emails", "allow_groups"].map(|key| allowed(&mut table, key));
    if roles_claim.is_none() && allow_groups.as_ref().is_some_and(|groups| !groups.is_empty()) {
        table.missing_beside("roles_claim", "`allow_groups` is read from it; write the claim that holds groups");
    }
    let (ca, identity) = table.table("tls").map(|tls| trust(tls, base)).unwrap_or_default();
    if client_auth == Some(OidcClientAuth::Certificate) && identity.is_none() {
        table.missing_beside(
            "tls",
            "the certificate that `tls_client_auth` shows; write [tls] with `certificate`, `private_key`",
        );
    }
    let frontchannel_logout = table.flag("frontchannel_logout").is_some_and(|flag| flag.value);
    let logout_there = table.flag("logout_there").is_none_or(|flag| flag.value);
    table.done();
    let (issuer, plain_http) = issuer?;
    Some(OidcLogin {
        title: title.unwrap_or_else(|| name.clone()),
        name: fine.then_some(name)?,
        issuer,
        plain_http,
        client_id: client_id?,
        client_auth: client_auth?,
        algorithms: algorithms?,
        scopes: scopes?,
        trust_email,
        roles_claim: roles_claim.map(|at| at.value),
        role_map: role_map?,
        user_claim: user_claim.map_or_else(|| "sub".to_owned(), |at| at.value),
        user_prefix: user_prefix?,
        allow_domains: allow_domains?,
        allow_emails: allow_emails?,
        allow_groups: allow_groups?,
        ca,
        identity,
        frontchannel_logout,
        logout_there,
    })
}

fn needed(table: &mut Table<'_, '_>, key: &'static str, accepted: &str) -> Option<String> {
    let found = table.text(key, accepted);
    match &found {
        None if !table.has_problem(key) => table.missing(key, &format!("write {accepted}")),
        Some(at) if at.value.is_empty() => table.problem(&at.span, key, format!("is empty; write {accepted}")),
        _ => {}
    }
    found.map(|at| at.value).filter(|value| !value.is_empty())
}

/// The issuer byte for byte as the provider writes it, and whether it is asked over plain HTTP.
fn issuer(table: &mut Table<'_, '_>) -> Option<(String, bool)> {
    let accepted = "the provider's issuer, exactly as its tokens carry it, such as \"https://id.example.com\"";
    let plain = table.flag("plain_http").is_some_and(|flag| flag.value);
    let At { value, span, .. } = match table.text("issuer", accepted) {
        Some(found) => found,
        None => {
            if !table.has_problem("issuer") {
                table.missing("issuer", &format!("write {accepted}"));
            }
            return None;
        }
    };
    let uri = value.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    let wrong = match (&uri, uri.as_ref().and_then(http::Uri::scheme_str)) {
        _ if value.contains(['?', '#', '@']) => "carries a query, a fragment or a name, which no issuer has",
        (Some(_), Some("https")) => return Some((value, false)),
        (Some(uri), Some("http")) if plain && is_this_machine(uri.host().unwrap_or_default()) => {
            return Some((value, true));
        }
        (_, Some("http")) if plain => "is plain http to another machine, which `plain_http` does not allow",
        (_, Some("http")) => "is not https; sign-in over plain http leaks the code",
        _ => "is not a URL",
    };
    table.problem(&span, "issuer", format!("`{value}` {wrong}; write {accepted}"));
    None
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn client_auth(table: &mut Table<'_, '_>, base: &Path) -> Option<OidcClientAuth> {
    const KINDS: [&str; 4] = ["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"];
    let kind = table.text("client_auth", "one of the names of OpenID Connect Core §9");
    let named = kind.as_ref().map_or(KINDS[0], |at| at.value.as_str());
    let secret = secret(table, "client_secret", base);
    let key = table.text("client_key", "the path of a PEM file").map(|at| base.join(at.value));
    let key_id = table.text("client_key_id", "the key's name at the provider").map(|at| at.value);
    match (named, secret?, key) {
        ("client_secret_basic", Some(secret), None) => Some(OidcClientAuth::Basic(secret)),
        ("client_secret_post", Some(secret), None) => Some(OidcClientAuth::Post(secret)),
        ("private_key_jwt", None, Some(key)) => Some(OidcClientAuth::Key(key, key_id)),
        ("tls_client_auth", None, None) => Some(OidcClientAuth::Certificate),
        ("client_secret_basic" | "client_secret_post", ..) => {
            if !table.has_problem("client_secret") {
                table.missing_beside(
                    "client_secret",
                    "write { file = \"PATH\" } or { env = \"NAME\" }, and no `client_key`",
                );
            }
            None
        }
        ("private_key_jwt", ..) => {
            table.missing_beside(
                "client_key",
                "write the path of the PEM key that assertions are signed with, and no secret",
            );
            None
        }
        ("tls_client_auth", ..) => {
            let span = table.span().clone();
            table.problem(&span, "client_auth", "`tls_client_auth` needs neither `client_secret` nor `client_key`");
            None
        }
        (other, ..) => {
            let span = kind.as_ref().map_or_else(|| table.span().clone(), |at| at.span.clone());
            let near = did_you_mean(other, KINDS);
            table.problem(
                &span,
                "client_auth",
                format!("`{other}` is not known; write one of {}{near}", listed(KINDS)),
            );
            None
        }
    }
}

fn scopes(table: &mut Table<'_, '_>) -> Option<Vec<String>> {
    let Some(list) = table.texts("scopes", "a list such as [\"openid\", \"email\"]") else {
        return (!table.has_problem("scopes")).then(|| SCOPES.map(str::to_owned).to_vec());
    };
    let named: Vec<String> = list.value.into_iter().map(|at| at.value).collect();
    if !named.iter().any(|scope| scope == "openid") {
        table.problem(&list.span, "scopes", "lacks `openid`, without which nobody is named");
        return None;
    }
    // RFC 6749 §3.3: visible ASCII without quotes and backslash.
    let plain = |byte: u8| (0x21..0x7f).contains(&byte) && !matches!(byte, b'"' | b'\\');
    if let Some(wrong) = named.iter().find(|scope| scope.is_empty() || !scope.bytes().all(plain)) {
        table.problem(&list.span, "scopes", format!("`{wrong}` is no scope; write words without blanks"));
        return None;
    }
    Some(named)
}

fn algorithms(table: &mut Table<'_, '_>) -> Option<Vec<String>> {
    // RS256 is what every provider signs with unless it is told otherwise (OpenID Connect Core §3.1.3.7); of each kind of key
    // one, so that a key that does not say its algorithm has one.
    const USUAL: [&str; 4] = ["RS256", "ES256", "ES384", "EdDSA"];
    const KNOWN: [&str; 7] = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"];
    let Some(list) = table.texts("algorithms", "a list such as [\"RS256\"]") else {
        return (!table.has_problem("algorithms")).then(|| USUAL.map(str::to_owned).to_vec());
    };
    if list.value.is_empty() && !table.has_problem("algorithms") {
        table.problem(&list.span, "algorithms", "is empty; write a list such as [\"RS256\"]");
    }
    for At { value, span, .. } in list.value.iter().filter(|at| !KNOWN.contains(&at.value.as_str())) {
        let near = did_you_mean(value, KNOWN);
        let message = format!("`{value}` is no algorithm with a public key; known: {}{near}", listed(KNOWN));
        table.problem(span, "algorithms", message);
    }
    let named = list.value.into_iter().map(|at| at.value).collect();
    (!table.has_problem("algorithms")).then_some(named)
}

fn role_map(table: &mut Table<'_, '_>, roles: &RoleNames) -> Option<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    let mut fine = true;
    for (group, span, value) in table.entries("role_map") {
        match text(value) {
            Some(role) if roles.id(&role).is_some() => {
                map.insert(group, role);
            }
            Some(role) => {
                let near = did_you_mean(&role, roles.iter());
                table.problem(&span, "role_map", format!("role `{role}` is not declared in `roles`{near}"));
                fine = false;
            }
            None => {
                table.problem(&span, "role_map", format!("`{group}` leads to something that is no text; write a role"));
                fine = false;
            }
        }
    }
    (fine && !table.has_problem("role_map")).then_some(map)
}

/// What stands before a person's name for applications. It ends with a mark that no local name holds, and holds none before, so
/// that no two places can give one name: `alice` of a provider must not be taken for the local `alice`.
pub(super) fn user_prefix(table: &mut Table<'_, '_>, several: bool) -> Option<String> {
    let accepted = "a word and a colon, such as \"corp:\"";
    let Some(At { value, span, .. }) = table.text("user_prefix", accepted) else {
        if several && !table.has_problem("user_prefix") {
            let why = "applications could take one place's `alice` for the other's";
            table.missing_beside("user_prefix", &format!("with several places to sign in, {why}; write {accepted}"));
            return None;
        }
        return (!table.has_problem("user_prefix")).then(String::new);
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let word = value.strip_suffix(':').is_some_and(|word| !word.is_empty() && word.bytes().all(plain));
    if !word && (several || !value.is_empty()) {
        table.problem(&span, "user_prefix", format!("`{value}` is not accepted; write {accepted}"));
        return None;
    }
    Some(value)
}

/// An empty list would be read as *nobody* by one and as *everybody* by the next.
fn allowed(table: &mut Table<'_, '_>, key: &'static str) -> Option<Vec<String>> {
    let Some(list) = table.texts(key, "a list of texts") else {
        return (!table.has_problem(key)).then(Vec::new);
    };
    if list.value.is_empty() && !table.has_problem(key) {
        table.problem(&list.span, key, "is empty; leave it out to allow everybody the provider signs in");
        return None;
    }
    let lower = key != "allow_groups";
    let named = |at: At<String>| if lower { at.value.to_ascii_lowercase() } else { at.value };
    Some(list.value.into_iter().map(named).collect())
}

/// Files that `[tls]` of a provider names.
type Trust = (Option<PathBuf>, Option<(PathBuf, PathBuf)>);

fn trust(mut table: Table<'_, '_>, base: &Path) -> Trust {
    let mut file = |key| table.text(key, "the path of a PEM file").map(|at| base.join(at.value));
    let (ca, certificate, key) = (file("ca"), file("certificate"), file("private_key"));
    if certificate.is_some() != key.is_some() {
        let lacking = if key.is_none() { "private_key" } else { "certificate" };
        table.missing_beside(lacking, "`certificate` and `private_key` go together");
    }
    table.done();
    (ca, certificate.zip(key))
}
