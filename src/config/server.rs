//! `[server]` and `[tls]`. One decision: an address that everybody may speak for is nobody's, so a proxy is trusted by name and
//! never by default. Knows nothing of sockets.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;

use ipnet::IpNet;

use super::session::secret;
use super::table::{At, Table};
use super::{AdminListener, Forwarded, Secret, Server, Tls};

pub(super) fn server(mut table: Table<'_, '_>, base: &Path) -> Option<Server> {
    let accepted = "an address and port such as \"0.0.0.0:8443\"";
    let listen = address(&mut table, "listen", accepted);
    if listen.is_none() && !table.has_problem("listen") {
        table.missing("listen", &format!("write {accepted}"));
    }
    let redirect_http = address(&mut table, "redirect_http", "an address and port such as \"0.0.0.0:80\"");
    let workers = table.number("workers", 1..1025).and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?));
    let mut trusted_proxies = Vec::new();
    let networks = table.texts("trusted_proxies", "a list such as [\"10.0.0.0/8\"]");
    for At { value, span, .. } in networks.map(|list| list.value).unwrap_or_default() {
        match value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from)) {
            // Everybody's word is nobody's.
            Ok(net) if net.prefix_len() == 0 => {
                table.problem(&span, "trusted_proxies", format!("`{value}` trusts everybody; name your proxies"));
            }
            Ok(net) => trusted_proxies.push(net),
            Err(_) => {
                let accepted = "write an address or a network such as \"10.0.0.0/8\"";
                table.problem(&span, "trusted_proxies", format!("`{value}` is not an address; {accepted}"));
            }
        }
    }
    let proxy_protocol = table.flag("proxy_protocol");
    if let Some(flag) = proxy_protocol.as_ref().filter(|flag| flag.value && trusted_proxies.is_empty()) {
        let accepted = "write the proxies that send it in `trusted_proxies`";
        table.problem(&flag.span, "proxy_protocol", format!("is read from listed proxies alone; {accepted}"));
    }
    let forwarded = forwarded(&mut table);
    let admin = admin(&mut table, base);
    let others = [("redirect_http", redirect_http.as_ref()), ("admin", admin.as_ref().map(|(at, _)| at))];
    apart(&table, listen.as_ref(), others);
    table.done();
    let (listen, redirect_http) = (listen?.value, redirect_http.map(|at| at.value));
    let admin = admin.and_then(|(at, token)| Some(AdminListener { address: at.value, token: token? }));
    let proxy_protocol = proxy_protocol.is_some_and(|flag| flag.value);
    Some(Server { listen, workers, redirect_http, admin, trusted_proxies, proxy_protocol, forwarded })
}

/// The second listener on an address is one that cannot listen.
fn apart(table: &Table<'_, '_>, listen: Option<&At<SocketAddr>>, others: [(&str, Option<&At<SocketAddr>>); 2]) {
    let mut before: Vec<(&str, SocketAddr)> = listen.map(|at| ("listen", at.value)).into_iter().collect();
    for (key, at) in others.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        if let Some((other, _)) = before.iter().find(|(_, address)| is_taken(at.value, *address)) {
            table.problem(&at.span, key, format!("`{}` is taken by `{other}`; choose another port", at.value));
        }
        before.push((key, at.value));
    }
}

/// Port 0 is another one every time. Whether `[::]` takes the addresses of IPv4 is the system's choice.
fn is_taken(one: SocketAddr, by: SocketAddr) -> bool {
    let everywhere = one.ip().is_unspecified() || by.ip().is_unspecified();
    one.port() != 0 && one.port() == by.port() && one.is_ipv4() == by.is_ipv4() && (one.ip() == by.ip() || everywhere)
}

/// The operator's listener. What it tells and does is nobody else's, so an address that others reach needs a token.
fn admin(table: &mut Table<'_, '_>, base: &Path) -> Option<(At<SocketAddr>, Option<Option<Secret>>)> {
    let accepted = "an address and port such as \"127.0.0.1:9090\"";
    let found = table.text("admin", accepted);
    let token = secret(table, "admin_token", base);
    let Some(At { value, span, key }) = found else {
        if token.as_ref().is_some_and(Option::is_some) && !table.has_problem("admin") {
            table.missing_beside("admin", &format!("`admin_token` opens it; write {accepted}"));
        }
        return None;
    };
    let Ok(address) = value.parse::<SocketAddr>() else {
        table.problem(&span, "admin", format!("`{value}` is not an address and port; write {accepted}"));
        return None;
    };
    if !address.ip().is_loopback() && token == Some(None) {
        let accepted = "write a loopback address, or `admin_token = { file = \"PATH\" }`";
        table.problem(&span, "admin", format!("`{value}` is within reach of others; {accepted}"));
    }
    Some((At { value: address, span, key }, token))
}

fn address(table: &mut Table<'_, '_>, key: &'static str, accepted: &str) -> Option<At<SocketAddr>> {
    let At { value, span, key: path } = table.text(key, accepted)?;
    let address = value.parse().ok();
    if address.is_none() {
        table.problem(&span, key, format!("`{value}` is not an address and port; write {accepted}"));
    }
    address.map(|value| At { value, span, key: path })
}

fn forwarded(table: &mut Table<'_, '_>) -> Forwarded {
    let accepted = "\"x-forwarded\", \"forwarded\", \"both\" or \"none\"";
    let Some(At { value, span, .. }) = table.text("forwarded", accepted) else { return Forwarded::XForwarded };
    match value.as_str() {
        "x-forwarded" => Forwarded::XForwarded,
        "forwarded" => Forwarded::Standard,
        "both" => Forwarded::Both,
        "none" => Forwarded::Nothing,
        _ => {
            table.problem(&span, "forwarded", format!("`{value}` is not understood; write {accepted}"));
            Forwarded::XForwarded
        }
    }
}

pub(super) fn tls(mut table: Table<'_, '_>, base: &Path) -> Option<Tls> {
    let self_signed = table.flag("self_signed").is_some_and(|flag| flag.value);
    let file = "the path of a PEM file";
    let (certificate, private_key) = (table.text("certificate", file), table.text("private_key", file));
    let path = |given: Option<At<String>>, key: &str, default: &str| match given {
        Some(At { value, .. }) if !value.is_empty() => Some(base.join(value)),
        Some(At { span, .. }) => {
            table.problem(&span, key, format!("is empty; write {file}"));
            None
        }
        None if self_signed => Some(base.join(default)),
        None => {
            table.missing_beside(key, &format!("write {file}, or `self_signed = true` for development"));
            None
        }
    };
    let certificate = path(certificate, "certificate", "certs/gateway.pem");
    let private_key = path(private_key, "private_key", "certs/gateway.key");
    let mut also = Vec::new();
    for mut other in table.array_of_tables("also") {
        let mut file = |key| {
            let found = other.text(key, file).filter(|at| !at.value.is_empty());
            if found.is_none() && !other.has_problem(key) {
                other.missing(key, &format!("write {file}"));
            }
            found.map(|at| base.join(at.value))
        };
        if let (Some(certificate), Some(private_key)) = (file("certificate"), file("private_key")) {
            also.push((certificate, private_key));
        }
        other.done();
    }
    table.done();
    Some(Tls { certificate: certificate?, private_key: private_key?, self_signed, also })
}
