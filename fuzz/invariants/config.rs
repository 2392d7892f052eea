//! `gateway.toml`: whatever the text, what is wrong is told at a line that it has, the same one further down where a line is put before
//! it; what is accepted means the same each time, and the file's places are found by it.

use std::path::Path;

use crate::config::{Config, ConfigErrors, Problem};

/// `data` is the text of a file.
pub fn hold(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let first = parsed(text);
    let below = parsed(&format!("\n{text}"));
    match (&first, &below) {
        (Ok(config), Ok(below)) => {
            let again = parsed(text).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(format!("{:?}", again.routes), format!("{:?}", config.routes));
            assert_eq!(again.lines, config.lines);
            assert_eq!(config.routes.routes().len(), below.routes.routes().len());
            for (route, below) in config.routes.routes().iter().zip(below.routes.routes()) {
                assert_eq!((&route.name, route.line + 1), (&below.name, below.line));
                assert!(!route.path.as_str().is_empty() && (route.upstream.0 < config.upstreams.len()), "{route:?}");
            }
        }
        (Err(errors), Err(below)) => {
            let lines = text.split('\n').count();
            assert!(!errors.problems.is_empty());
            for problem in &errors.problems {
                assert!((1..=lines).contains(&problem.line), "{problem} of {lines} lines");
                assert!(!problem.message.is_empty());
            }
            // What is missing altogether is missing at the first line.
            let down = |problem: &Problem, by: usize| if problem.line == 1 { 1 } else { problem.line + by };
            let places = |errors: &ConfigErrors, by| {
                let mut places: Vec<_> =
                    errors.problems.iter().map(|problem| (problem.key.clone(), down(problem, by))).collect();
                places.sort();
                places
            };
            let (places, below_them) = (places(errors, 1), places(below, 0));
            let is_down = |((key, line), (same, below)): (&(String, usize), &(String, usize))| {
                key == same && (line == below || (*line, *below) == (1, 2))
            };
            let all = places.len() == below_them.len() && places.iter().zip(&below_them).all(is_down);
            assert!(all, "{errors}\n{below}");
        }
        // What marks the order of bytes may stand at the very beginning alone.
        (Ok(_), Err(errors)) => assert!(text.starts_with('\u{feff}'), "{errors}"),
        (Err(errors), Ok(_)) => panic!("only an empty line is missing: {errors}"),
    }
}

fn parsed(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, "gateway.toml", Path::new("/"))
}
