//! The configuration: the shipped file is right, and a wrong one is told everything at once.

use portcullis::config::Config;
use std::path::Path;

#[test]
fn the_shipped_configuration_is_right() {
    let text = include_str!("../../gateway.toml");
    let config = Config::parse(text, "gateway.toml", Path::new("/srv")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.routes.routes().len(), 3);
    assert_eq!(config.tls.certificate, Path::new("/srv/certs/gateway.pem"));
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let text = include_str!("../data/config/mistakes.toml");
    let told = Config::parse(text, "gateway.toml", Path::new("/")).unwrap_err().to_string();
    let expected = include_str!("../data/config/mistakes.expected");
    assert_eq!(told.trim_end(), expected.trim_end(), "\n{told}");
}

#[test]
fn a_mistake_of_syntax_is_told_with_its_line() {
    let told = Config::parse("roles = [\n\"a\"\n[server]\n", "gateway.toml", Path::new("/")).unwrap_err().to_string();
    assert!(told.starts_with("gateway.toml:"), "{told}");
    assert!(told.ends_with("1 problem in gateway.toml; nothing was started"), "{told}");
}
