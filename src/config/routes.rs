//! `[[route]]`. One decision: `access` is written on every route; there is no word for *everybody* but "public", and no list
//! that means it by being empty. Knows nothing of matching.

use http::Method;
use toml::Spanned;
use toml::de::DeValue;

use crate::policy::{
    Accept, AccessRule, Clash, HostPattern, IdentityHeaders, PathError, PathPrefix, RESERVED_PREFIX, RoleNames,
    RoleSet, Route, RouteOptions, RouteTable, UpstreamId,
};

use super::Upstream;
use super::meanings::meanings;
use super::options::options;
use super::problems::{did_you_mean, listed};
use super::sign_in::sign_in;
use super::table::{At, Table};

const ACCESS: &str = "write \"public\", \"authenticated\" or { roles = [...] }";

/// What a caller can come by, and what is told of them.
pub(super) struct Credentials<'l> {
    /// Where one can sign in.
    pub(super) logins: &'l [String],
    /// Whether somebody's tokens are accepted.
    pub(super) tokens: bool,
    /// The headers that tell applications who calls, where they could be read.
    pub(super) told: Option<&'l IdentityHeaders>,
}

/// The routes of a file.
#[derive(Default)]
pub(super) struct Routes {
    /// Those without a mistake of their own, each with its place in the file.
    pub(super) good: Vec<(usize, Route)>,
    /// All of them, arranged; `None` where something is mistaken.
    pub(super) table: Option<RouteTable>,
}

/// All routes. Those that are right are compared with one another even where others are not.
pub(super) fn routes(
    root: &mut Table<'_, '_>,
    roles: &RoleNames,
    upstreams: &[Upstream],
    can: &Credentials<'_>,
) -> Routes {
    let tables = root.array_of_tables("route");
    if tables.is_empty() {
        if !root.found("route") {
            root.missing("route", "write at least one [[route]]: without route there is no entry");
        }
        return Routes::default();
    }
    let count = tables.len();
    let mut good: Vec<(usize, Route)> = Vec::new();
    let mut names: Vec<(String, usize)> = Vec::new();
    for (index, mut table) in tables.into_iter().enumerate() {
        let (span, line, path) = (table.span().clone(), table.line(), table.path_of("name"));
        let name = table.needed("name", "a name, such as \"admin\"").map(|at| at.value);
        if let Some(name) = &name {
            match names.iter().find(|(other, _)| other == name) {
                Some((_, twin)) => {
                    root.problem(&span, &path, format!("`{name}` is the name of the route at line {twin} too"));
                }
                None => names.push((name.clone(), line)),
            }
        }
        good.extend(route(table, name, roles, upstreams, can).map(|route| (index, route)));
    }
    let arranged = RouteTable::new(good.iter().map(|(_, route)| route.clone()).collect());
    let table = match arranged {
        Ok(table) => (good.len() == count).then_some(table),
        Err(clashes) => {
            clashes.iter().for_each(|clash| told(root, clash, &good));
            None
        }
    };
    Routes { good, table }
}

fn told(root: &Table<'_, '_>, Clash { one, other, lenient }: &Clash, routes: &[(usize, Route)]) {
    let is_it = |(_, route): &&(usize, Route)| route.name == other.name && route.line == other.line;
    let at = routes.iter().find(is_it).map_or(0, |(index, _)| *index);
    let twin = format!("route `{}` at line {}", one.name, one.line);
    let message = match lenient {
        false => format!("stands at the same host, path and method as {twin}; which of the two would win is not said"),
        true => format!(
            "differs from `{}` of {twin} only by letter case or trailing dots, which many servers ignore; write one of them",
            one.path.as_str()
        ),
    };
    root.problem_at_line(other.line, &format!("route[{at}].path"), message);
}

fn route(
    mut table: Table<'_, '_>,
    name: Option<String>,
    roles: &RoleNames,
    upstreams: &[Upstream],
    can: &Credentials<'_>,
) -> Option<Route> {
    let line = table.line();
    if let Some(told) = can.told {
        meanings(&table, told);
    }
    let host = host(&mut table);
    let path = path(&mut table);
    let methods = methods(&mut table);
    let access = access(&mut table, roles);
    let accept = accept(&mut table, can.tokens);
    let upstream = upstream(&mut table, upstreams);
    let with_session = accept.is_none_or(|accept| accept.session);
    let signs_in = matches!(access, Some(AccessRule::Authenticated | AccessRule::Roles(_))) && with_session;
    if can.logins.is_empty() && signs_in {
        table.problem(
            &table.span().clone(),
            "access",
            "asks for a sign-in, and nobody can sign in; write [login.local] with `users`, or [login.oidc.NAME]",
        );
    }
    let mut options = options(&mut table);
    if let (Some(RouteOptions { signed_identity: Some(signed), .. }), Some(name)) = (&mut options, &name)
        && signed.audience.is_empty()
    {
        signed.audience.clone_from(name);
    }
    let sign_in = sign_in(&mut table, access, can.logins);
    table.done();
    Some(Route {
        name: name?,
        line,
        index: 0,
        host: host?,
        path: path?,
        methods: methods?,
        access: access?,
        accept: accept?,
        upstream: upstream?,
        options: options?,
        sign_in: sign_in?,
    })
}

fn host(table: &mut Table<'_, '_>) -> Option<HostPattern> {
    let accepted = "\"app.example.com\" or \"*.example.com\", without port";
    match table.text("host", accepted) {
        None => (!table.has_problem("host")).then_some(HostPattern::Any),
        Some(At { value, span, .. }) => match HostPattern::parse(&value) {
            Ok(host) => Some(host),
            Err(_) => {
                table.problem(&span, "host", format!("`{value}` is not a host; write {accepted}"));
                None
            }
        },
    }
}

fn path(table: &mut Table<'_, '_>) -> Option<PathPrefix> {
    let At { value, span, .. } = table.needed("path", "a path prefix, such as \"/\" or \"/admin\"")?;
    let how = match PathPrefix::parse(&value) {
        Ok(path) if PathPrefix::parse(RESERVED_PREFIX).is_ok_and(|own| own.covers(&value.to_ascii_lowercase())) => {
            table.problem(&span, "path", format!("`{RESERVED_PREFIX}` belongs to the gateway; choose another path"));
            drop(path);
            return None;
        }
        Ok(path) => return Some(path),
        Err(PathError::NotAbsolute) => "begin it with `/`",
        Err(PathError::DotSegment) => "write it without `.` and `..`",
        Err(PathError::EmptySegment) if value.ends_with('/') => "write it without the trailing `/`",
        Err(PathError::EmptySegment) => "write it without `//`",
        Err(_) => "write it plainly, without `%`, `;`, `?`, `#`, `\\` or blanks",
    };
    table.problem(&span, "path", format!("`{value}` is not a canonical path; {how}"));
    None
}

fn methods(table: &mut Table<'_, '_>) -> Option<Option<Vec<Method>>> {
    let accepted = "a list such as [\"GET\", \"POST\"]";
    let Some(list) = table.texts("methods", accepted) else {
        return (!table.has_problem("methods")).then_some(None);
    };
    if list.value.is_empty() && !table.has_problem("methods") {
        table.problem(&list.span, "methods", format!("is empty; write {accepted}, or leave it out for every method"));
    }
    let mut methods: Vec<Method> = Vec::new();
    for At { value, span, .. } in list.value {
        let upper = value.to_ascii_uppercase();
        match value.parse::<Method>() {
            Ok(Method::CONNECT | Method::TRACE) => {
                table.problem(&span, "methods", format!("`{value}` is refused on every route; leave it out"));
            }
            Ok(method) if value == upper && !methods.contains(&method) => methods.push(method),
            Ok(_) if value != upper => {
                // RFC 9110 §9.1: methods are case-sensitive, so this one would never match.
                table.problem(&span, "methods", format!("`{value}` is not a method; did you mean `{upper}`?"));
            }
            Ok(_) => table.problem(&span, "methods", format!("`{value}` stands twice")),
            Err(_) => table.problem(&span, "methods", format!("`{value}` is not a method; write {accepted}")),
        }
    }
    (!methods.is_empty()).then_some(Some(methods))
}

fn access(table: &mut Table<'_, '_>, roles: &RoleNames) -> Option<AccessRule> {
    let Some(found) = table.take("access", &["public", "authenticated"]) else {
        table.missing("access", ACCESS);
        return None;
    };
    let span = found.span.clone();
    match found.value.get_ref() {
        DeValue::String(word) => match word.as_ref() {
            "public" => Some(AccessRule::Public),
            "authenticated" => Some(AccessRule::Authenticated),
            other => {
                let near = did_you_mean(other, ["public", "authenticated"]);
                table.problem(&span, "access", format!("`{other}` is no access rule; {ACCESS}{near}"));
                None
            }
        },
        DeValue::Table(_) => access_roles(table, found, roles),
        _ => {
            table.problem(&span, "access", format!("is neither a word nor a table; {ACCESS}"));
            None
        }
    }
}

fn access_roles<'t>(
    table: &mut Table<'_, 't>,
    found: At<Spanned<DeValue<'t>>>,
    roles: &RoleNames,
) -> Option<AccessRule> {
    let span = found.span.clone();
    let mut inner = table.reread("access", Some(found))?;
    let list = inner.texts("roles", "a list of declared roles");
    inner.done();
    let Some(list) = list else {
        table.problem(&span, "access", format!("names no roles; {ACCESS}"));
        return None;
    };
    if list.value.is_empty() {
        // An empty list means nobody to one reader and everybody to the next.
        table.problem(&span, "access", format!("the list of roles is empty; {ACCESS}"));
        return None;
    }
    let mut set = RoleSet::default();
    let wanted = list.value.len();
    let mut declared = 0;
    for At { value, span, .. } in list.value {
        match roles.id(&value) {
            Some(id) => {
                set.insert(id);
                declared += 1;
            }
            None => {
                let near = did_you_mean(&value, roles.iter());
                table.problem(&span, "access", format!("role `{value}` is not declared in `roles`{near}"));
            }
        }
    }
    (declared == wanted).then_some(AccessRule::Roles(set))
}

fn accept(table: &mut Table<'_, '_>, with_tokens: bool) -> Option<Accept> {
    const ACCEPTED: &str = "write [\"session\"], [\"token\"] or both";
    let Some(list) = table.texts("accept", "a list such as [\"session\"]") else {
        return (!table.has_problem("accept")).then_some(Accept { session: true, token: false });
    };
    let mut accept = Accept { session: false, token: false };
    for At { value, span, .. } in list.value {
        match value.as_str() {
            "session" => accept.session = true,
            "token" if with_tokens => accept.token = true,
            "token" => {
                table.problem(&span, "accept", "`token` is accepted from nobody; write [token] with an issuer");
            }
            other => {
                let near = did_you_mean(other, ["session", "token"]);
                table.problem(&span, "accept", format!("`{other}` is no credential; {ACCEPTED}{near}"));
            }
        }
    }
    let some = accept.session || accept.token;
    if !some && !table.has_problem("accept") {
        table.problem(&list.span, "accept", format!("is empty, so nobody could pass; {ACCEPTED}"));
    }
    some.then_some(accept)
}

fn upstream(table: &mut Table<'_, '_>, upstreams: &[Upstream]) -> Option<UpstreamId> {
    let At { value, span, .. } = table.needed("upstream", "the name of an upstream")?;
    let names = || upstreams.iter().map(|upstream| upstream.name.as_str());
    let found = names().position(|name| name == value);
    if found.is_none() {
        let near = did_you_mean(&value, names());
        table.problem(
            &span,
            "upstream",
            format!("no upstream is named `{value}`; known upstreams: {}{near}", listed(names())),
        );
    }
    found.map(UpstreamId)
}
