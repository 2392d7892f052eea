//! The configuration: the shipped file is right, and a wrong one is told everything at once.

use portcullis::config::Config;
use proptest::prelude::{ProptestConfig, prop_assert, proptest};
use std::path::Path;
use std::time::Duration;

#[test]
fn the_shipped_configuration_is_right() {
    let text = include_str!("../../gateway.toml");
    let config = Config::parse(text, "gateway.toml", Path::new("/srv")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.routes.routes().len(), 3);
    assert_eq!(config.tls.certificate, Path::new("/srv/certs/gateway.pem"));
}

/// A file of mistakes, and beside it what is said of them.
#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
    let (mut seen, mut wrong) = (0, String::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let told = Config::parse(&text, "gateway.toml", Path::new("/")).unwrap_err().to_string();
            let expected = std::fs::read_to_string(path.with_extension("expected")).unwrap();
            if told.trim_end() != expected.trim_end() {
                wrong.push_str(&format!("{}:\n{told}\n", path.display()));
            }
            seen += 1;
        }
    }
    assert!(seen >= 4 && wrong.is_empty(), "{seen} files\n{wrong}");
}

/// attacks: lines 29 and 34. A session ends as NIST SP 800-63B-4 asks at AAL2 – an hour unused, a day in all – whether the limits are
/// written or left out; and none can be written that browsers would not keep a cookie for.
#[test]
fn sessions_end_in_time_by_default_and_within_400_days_by_any_choice() {
    let shipped = include_str!("../../gateway.toml");
    let parse = |text: &str| Config::parse(text, "gateway.toml", Path::new("/"));
    let set = |line: &&str| line.starts_with("idle_timeout") || line.starts_with("max_age");
    let unset: Vec<&str> = shipped.lines().filter(|line| !set(line)).collect();
    assert_eq!(unset.len() + 2, shipped.lines().count());
    for text in [shipped, &unset.join("\n")] {
        let session = parse(text).unwrap_or_else(|errors| panic!("{errors}")).session;
        assert!(session.idle_timeout <= Duration::from_secs(3_600), "{:?}", session.idle_timeout);
        assert!(session.max_age <= Duration::from_secs(86_400), "{:?}", session.max_age);
    }
    let for_days = |days: u32| parse(&shipped.replace("\"12h\"", &format!("\"{days}days\"")));
    assert!(for_days(399).is_ok());
    let told = for_days(401).unwrap_err().to_string();
    assert!(told.contains("session.max_age"), "{told}");
}

/// attacks: an identity under a name that something else has, for a server that folds names
#[test]
fn an_identity_has_a_header_of_its_own_in_every_spelling() {
    let told = |lines: &str| {
        let text = include_str!("../../gateway.toml").replace("preset = \"x-forwarded\"", lines);
        Config::parse(&text, "gateway.toml", Path::new("/")).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    for (field, twin) in [("X-Forwarded-Email", "email"), ("X_Forwarded.Groups", "roles")] {
        let said = told(&format!("preset = \"x-forwarded\"\nuser = \"{field}\""));
        let wrong = format!("identity_headers.user: `{field}` is the header of `{twin}` too");
        assert!(said.contains(&wrong) && said.contains("1 problem"), "{said}");
    }
    let exchanged = "preset = \"x-forwarded\"\nuser = \"X-Forwarded-Email\"\nemail = \"X-Forwarded-User\"";
    for fine in [exchanged, "preset = \"remote-user\"\nuser = \"REMOTE_USER\"", "user = \"X-WEBAUTH-USER\""] {
        assert_eq!(told(fine), "", "{fine}");
    }
    for name in [
        "X_Forwarded_For",
        "X_Request_Id",
        "Content_Length",
        "Content.Type",
        "Max-Forwards",
        "traceparent",
        "Accept",
        "Accept-Language",
        "If-Match",
        "Sec_Fetch_Site",
        "User-Agent",
        "X-Forwarded-Prefix",
        "HOST",
        "Transfer_Encoding",
    ] {
        let said = told(&format!("user = \"{name}\""));
        assert!(said.contains(&format!("`{name}` has a meaning of its own")), "{name}: {said}");
    }
}

/// Nobody can write during an outage that a session is used: afterwards it would be one that nobody used.
#[test]
fn memory_is_served_in_an_outage_for_no_longer_than_an_idle_window_lasts() {
    let told = |idle: &str, stale: &str| {
        let kept = |line: &&str| !line.starts_with("idle_timeout");
        let text: Vec<&str> = include_str!("../../gateway.toml").lines().filter(kept).collect();
        let lines = format!("[session]\n{idle}on_outage = {{ stale = \"{stale}\" }}\n");
        let text = text.join("\n").replace("[session]\n", &lines);
        Config::parse(&text, "gateway.toml", Path::new("/")).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    for (idle, stale) in [("", "27m"), ("idle_timeout = \"10m\"\n", "9m"), ("idle_timeout = \"2h\"\n", "59m")] {
        assert_eq!(told(idle, stale), "", "{idle}{stale}");
    }
    for (idle, stale) in [("", "28m"), ("idle_timeout = \"10m\"\n", "10m"), ("idle_timeout = \"1m\"\n", "55s")] {
        let said = told(idle, stale);
        let wrong = "session.on_outage.stale: is longer than nine tenths of `idle_timeout`";
        assert!(said.contains(wrong) && said.contains("1 problem"), "{idle}{stale}: {said}");
    }
}

#[test]
fn a_mistake_of_syntax_is_told_with_its_line() {
    let told = Config::parse("roles = [\n\"a\"\n[server]\n", "gateway.toml", Path::new("/")).unwrap_err().to_string();
    assert!(told.starts_with("gateway.toml:"), "{told}");
    assert!(told.ends_with("1 problem in gateway.toml; nothing was started"), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Cut out a piece, put another in: it is accepted or refused with a line, never worse.
    #[test]
    fn no_text_makes_the_parser_panic(at in 0_usize..2_000, cut in 0_usize..60, put in "[ a-z0-9\"\\[\\]{}=.,\\\\\né#-]{0,12}") {
        let text = include_str!("../../gateway.toml");
        let at = text.floor_char_boundary(at.min(text.len()));
        let end = text.floor_char_boundary((at + cut).min(text.len())).max(at);
        let mutated = format!("{}{put}{}", &text[..at], &text[end..]);
        if let Err(errors) = Config::parse(&mutated, "gateway.toml", Path::new("/")) {
            let said = errors.to_string();
            prop_assert!(said.starts_with("gateway.toml:"), "{}", said);
        }
    }
}
