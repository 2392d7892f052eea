//! What a file may say and can hardly mean. One decision: it is told and keeps nobody from starting, because it was accepted before.
//! Knows nothing of what is wrong.

use crate::policy::Preflight;

use super::{Config, Problem};

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
        doubts
    }
}
