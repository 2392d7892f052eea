//! `portcullis check`. One decision: it runs the very stages of a start, up to the point where something would be made or
//! listened on. Knows nothing of the checks themselves.

use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, ConfigErrors, Problem};
use crate::startup;

use super::{BAD_INPUT, chain, load, say};

/// Check and say.
pub(super) fn run(path: &Path, online: bool) -> ExitCode {
    let (config, mistakes) = match load::look(path) {
        Ok(looked) => looked,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(BAD_INPUT);
        }
    };
    let file = load::name(path);
    let config = match config {
        Some(config) if mistakes.is_empty() => config,
        config => {
            say(&ConfigErrors { file, problems: with_files(mistakes, config.as_ref()) }.to_string());
            return ExitCode::from(BAD_INPUT);
        }
    };
    let flaws = startup::check(&config);
    for flaw in flaws.iter().filter(|flaw| !flaw.is_fatal) {
        say(&format!("{file}:{}: {}: warning: {}", flaw.at.line, flaw.at.key, flaw.at.message));
    }
    let problems: Vec<_> = flaws.into_iter().filter(|flaw| flaw.is_fatal).map(|flaw| flaw.at).collect();
    if !problems.is_empty() {
        say(&ConfigErrors { file, problems }.to_string());
        return ExitCode::from(BAD_INPUT);
    }
    if online {
        match startup::check_online(&config) {
            Err(error) => {
                say(&format!("{}: {}", path.display(), chain(&error)));
                return ExitCode::from(BAD_INPUT);
            }
            Ok(findings) => {
                for finding in &findings {
                    let (login, told) = (&finding.login, &finding.message);
                    say(&format!("{}: login.oidc.{login}: {told}", path.display()));
                }
                let wrong = findings.iter().filter(|finding| finding.wrong).count();
                if wrong > 0 {
                    let problems = if wrong == 1 { "1 problem".to_owned() } else { format!("{wrong} problems") };
                    say(&format!("{problems} with providers; nothing was started"));
                    return ExitCode::from(BAD_INPUT);
                }
            }
        }
    }
    let (routes, upstreams, roles) =
        (config.routes.routes().len(), config.upstreams.len(), config.roles.iter().count());
    say(&format!("{}: fine (routes: {routes}, upstreams: {upstreams}, roles: {roles})", path.display()));
    ExitCode::SUCCESS
}

/// Mistakes of the text, and of the files that what could be read of it names: all of them are mended in one go. Warnings wait: what they
/// compare may be what could not be read.
fn with_files(mut mistakes: Vec<Problem>, config: Option<&Config>) -> Vec<Problem> {
    let flaws = config.map(startup::check).unwrap_or_default();
    mistakes.extend(flaws.into_iter().filter(|flaw| flaw.is_fatal).map(|flaw| flaw.at));
    mistakes.sort();
    mistakes
}
