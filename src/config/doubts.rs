//! What a file may say and can hardly mean. One decision: it is told and keeps nobody from starting, because it was accepted before.
//! Knows nothing of what is wrong.

use crate::policy::{AccessRule, Preflight, Route};

use super::{Config, Problem, Upstream};

impl Config {
    /// All of it, with its lines.
    pub fn doubts(&self) -> Vec<Problem> {
        let mut doubts = Vec::new();
        for route in self.routes.routes() {
            let (Some(methods), Preflight::Answer(cors)) = (&route.methods, &route.options.preflight) else { continue };
            for method in cors.methods.iter().filter(|method| !methods.contains(method)) {
                let key = format!("route[{}].preflight.methods", route.index);
                let message =
                    format!("`{method}` is not in `methods` of the same route, which refuses what is allowed here");
                doubts.push(Problem { line: self.lines.of(&key), key, message });
            }
        }
        self.patterns(&mut doubts);
        self.nobodies(&mut doubts);
        self.shared_servers(&mut doubts);
        self.shared_names(&mut doubts);
        doubts
    }

    /// Paths that look like the patterns of other programs. A rule for `/admin/*` holds for nothing that an application is made of, and
    /// what it was written for falls under a less specific one.
    fn patterns(&self, doubts: &mut Vec<Problem>) {
        let is_pattern = |segment: &&str| segment.contains(['*', '{', '}']) || segment.starts_with(':');
        for route in self.routes.routes() {
            let Some(segment) = route.path.as_str().split('/').find(is_pattern) else { continue };
            let key = format!("route[{}].path", route.index);
            let message = format!(
                "`{segment}` stands for nothing but these very letters; a path covers all that is below it as it is, \
                 such as \"/admin\" for /admin and /admin/users"
            );
            doubts.push(Problem { line: self.lines.of(&key), key, message });
        }
    }

    /// Whom a list of addresses or domains means to let in, and can never name: everybody else is let in no more than they are.
    fn nobodies(&self, doubts: &mut Vec<Problem>) {
        let is_domain =
            |text: &str| !text.is_empty() && !text.starts_with('.') && !text.contains(['@', '*', '/', ':', ' ']);
        let is_address = |text: &str| {
            let (who, at) = text.rsplit_once('@').unwrap_or_default();
            !who.is_empty() && who != "*" && is_domain(at)
        };
        for login in &self.oidc {
            let domains = login.allow_domains.iter().filter(|text| !is_domain(text));
            let domains =
                domains.map(|text| ("allow_domains", text, "what stands behind the `@`, such as \"example.com\""));
            let addresses = login.allow_emails.iter().filter(|text| !is_address(text));
            let addresses = addresses.map(|text| ("allow_emails", text, "whole addresses, or `allow_domains`"));
            for (key, text, wanted) in domains.chain(addresses) {
                let key = format!("login.oidc.{}.{key}", login.name);
                let message = format!("`{text}` is compared letter by letter and lets nobody in; write {wanted}");
                doubts.push(Problem { line: self.lines.of(&key), key, message });
            }
        }
    }

    /// Rewrites to an application that has rules under another name. Two names may be two applications behind one server, so none is held
    /// against the other.
    fn shared_servers(&self, doubts: &mut Vec<Problem>) {
        let routes = self.routes.routes();
        let has_server_of = |other: &Route, route: &Route| {
            let [one, other] = [route, other].map(|route| &self.upstreams[route.upstream.0].servers);
            one.iter().any(|server| other.iter().any(|other| other.address == server.address))
        };
        for route in routes.iter().filter(|route| route.options.prefix.is_some()) {
            let mut others = routes.iter().filter(|other| other.upstream != route.upstream);
            if let Some(other) =
                others.find(|other| has_server_of(other, route) && other.options.host == route.options.host)
            {
                let key = format!("route[{}].upstream", route.index);
                let message = format!(
                    "has a server of `{}` too, and the rule of route `{}` is not held against what is rewritten here; \
                     if it is one application, name one upstream in both",
                    self.upstreams[other.upstream.0].name, other.name
                );
                doubts.push(Problem { line: self.lines.of(&key), key, message });
            }
        }
    }

    /// Issuers of tokens whose names an application could take for those of another place. A mistake where it is providers; here files
    /// were accepted that do not say it, and where tokens come from where people sign in the names are even meant to be the same.
    fn shared_names(&self, doubts: &mut Vec<Problem>) {
        let logins = self.oidc.iter().map(|login| Place {
            issuer: &login.issuer,
            prefix: &login.user_prefix,
            by: By::Session(&login.name),
        });
        let issuers = self.tokens.iter().map(|issuer| Place {
            issuer: &issuer.issuer,
            prefix: &issuer.user_prefix,
            by: By::Token,
        });
        let local = self.local.iter().map(|_| Place { issuer: "local", prefix: "", by: By::Session("local") });
        let places: Vec<Place<'_>> = local.chain(logins).chain(issuers).collect();
        let first = places.len() - self.tokens.len();
        for (index, place) in places.iter().enumerate().skip(first) {
            let mut others = places[..index].iter().filter(|other| place.may_name_for(other));
            let found = others.find_map(|other| Some((other, self.reached_by(place, other)?)));
            if let Some((other, upstream)) = found {
                let table = self.token_table(index - first);
                let message = format!(
                    "`{upstream}` is reached by names of `{}` as well as of `{}`, and could take one's `alice` for the other's; \
                     write `user_prefix`, such as \"svc:\"",
                    other.issuer, place.issuer
                );
                let key = format!("{table}.user_prefix");
                doubts.push(Problem { line: self.lines.of(&key), key, message });
            }
        }
    }

    /// An application that is told names of both.
    fn reached_by(&self, one: &Place<'_>, other: &Place<'_>) -> Option<&str> {
        let reached = |upstream: usize, place: &Place<'_>| {
            let mut routes = self.routes.routes().iter().filter(|route| route.upstream.0 == upstream);
            routes.any(|route| place.passes(route))
        };
        let both = |(index, _): &(usize, &Upstream)| reached(*index, one) && reached(*index, other);
        self.upstreams.iter().enumerate().find(both).map(|(_, upstream)| upstream.name.as_str())
    }
}

/// Where names come from.
struct Place<'c> {
    issuer: &'c str,
    prefix: &'c str,
    by: By<'c>,
}

#[derive(PartialEq, Eq)]
enum By<'c> {
    Session(&'c str),
    Token,
}

impl Place<'_> {
    /// Whether this one's `alice` and the other's are told alike, and need not be the same.
    fn may_name_for(&self, other: &Place<'_>) -> bool {
        self.prefix.eq_ignore_ascii_case(other.prefix) && self.issuer != other.issuer
    }

    /// Whether somebody of this place passes there.
    fn passes(&self, route: &Route) -> bool {
        let accepted = match self.by {
            By::Token => route.accept.token,
            By::Session(name) => {
                route.accept.session && route.sign_in.login.as_deref().is_none_or(|login| login == name)
            }
        };
        accepted && route.access != AccessRule::Public
    }
}
